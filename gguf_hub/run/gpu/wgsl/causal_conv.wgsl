// include: rows.wgsl
// include: elementary.wgsl
// One thread a channel, all tokens of the call. The state is the last taps - 1 inputs, oldest
// first; before position 0 it is zero, whatever lies there.

// input `at` of the channel: before the call's first one those of the state, oldest first
fn input_at(past: u32, c: u32, at: i32) -> f32 {
  if (at >= 0) { return f[a.x + a.stride * u32(at) + c]; }
  if (header(POSITION) == 0u) { return 0.0; }
  return f[past + a.width * u32(i32(a.n_taps) - 1 + at) + c];
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let c = flat(id, 64u * groups.x);
  if (c >= a.width) { return; }
  let n_past = i32(a.n_taps) - 1;
  let tokens = i32(header(N_TOKENS));
  let past = a.state + a.state_stride * header(SLOT);
  for (var t = 0; t < tokens; t++) {
    var total = 0.0;
    if (a.has_bias == 1u) { total = f[a.bias + c]; }
    for (var j = 0; j <= n_past; j++) {
      total += f[a.taps + a.width * u32(j) + c] * input_at(past, c, t - n_past + j);
    }
    f[a.y + a.width * u32(t) + c] = select(total, silu32(total), a.is_silu == 1u);
  }
  for (var j = 0; j < n_past; j++) {  // a row is overwritten after it was moved
    f[past + a.width * u32(j) + c] = input_at(past, c, tokens - n_past + j);
  }
}
