// include: convolution.wgsl
// include: elementary.wgsl
// One thread a token's channel. That of a single token keeps the inputs, too; those of several leave
// it to `causal_conv_state`, as others still read the state.
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * header(N_TOKENS)) { return; }
  let c = i % a.width;
  let first = i32(i / a.width) + 1 - i32(a.n_taps);
  var total = 0.0;
  if (a.has_bias == 1u) { total = f[a.bias + c]; }
  for (var j = 0u; j < a.n_taps; j++) {
    total += f[a.taps + a.width * j + c] * input_at(c, first + i32(j));
  }
  f[a.y + i] = select(total, silu32(total), a.is_silu == 1u);
  if (header(N_TOKENS) == 1u) { keep_inputs(c); }
}
