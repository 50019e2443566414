// include: rows.wgsl
// include: elementary.wgsl
// Mamba: s = e**(dt a) s + dt x b, y = s c + d x (arXiv 2312.00752, section 3); one thread a channel.
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width) { return; }
  let state = a.state + a.state_stride * header(SLOT) + i;
  if (header(POSITION) == 0u) {
    for (var k = 0u; k < a.n_state; k++) { f[state + a.width * k] = 0.0; }
  }
  for (var t = 0u; t < header(N_TOKENS); t++) {
    let at = a.width * t + i;
    let x = f[a.x + at];
    let pace = softplus32(f[a.dt + at] + f[a.dt_bias + i]);
    f[a.dt + at] = pace;
    var total = f[a.d + i] * x;
    for (var k = 0u; k < a.n_state; k++) {
      let row = a.width * k;
      let decay = exp32(pace * f[a.a + row + i]);
      let value = f[state + row] * decay + (pace * x) * f[a.b + a.n_state * t + k];
      f[state + row] = value;
      total += value * f[a.c + a.n_state * t + k];
    }
    f[a.y + at] = total;
  }
}
