// include: rows.wgsl
// include: elementary.wgsl
// One thread a (head, dimension): a column of the head's state, [n_state, head_dim], token after
// token: S = e**(dt a) S + dt B x^T, y = C S + d x (arXiv 2405.21060, section 6).
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let inner = a.n_head * a.head_dim;
  let i = flat(id, 64u * groups.x);
  if (i >= inner) { return; }
  let h = i / a.head_dim;
  let width = inner + 2u * a.n_group * a.n_state;
  let column = a.state + a.state_stride * header(SLOT) + a.n_state * a.head_dim * h + i % a.head_dim;
  let own_b = inner + a.n_state * (h / (a.n_head / a.n_group));
  if (header(POSITION) == 0u) {
    for (var j = 0u; j < a.n_state; j++) { f[column + a.head_dim * j] = 0.0; }
  }
  for (var t = 0u; t < header(N_TOKENS); t++) {
    let x = f[a.x + width * t + i];
    let b = a.x + width * t + own_b;
    let c = b + a.n_group * a.n_state;
    let pace = softplus32(f[a.dt + a.dt_stride * t + h] + f[a.dt_bias + h]);
    let decay = exp32(pace * f[a.a + h]);
    var total = f[a.d + h] * x;
    for (var j = 0u; j < a.n_state; j++) {
      let at = column + a.head_dim * j;
      let value = f[at] * decay + (pace * f[b + j]) * x;
      f[at] = value;
      total += value * f[c + j];
    }
    f[a.y + inner * t + i] = total;
  }
}
