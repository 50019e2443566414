// include: rows.wgsl
// include: elementary.wgsl
// One thread a (head, value dimension): a column of the head's state, [key, value], token after
// token: S = g S, S = S + k beta (v - k^T S), y = q^T S / root(d) (arXiv 2412.06464, equation 10).
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let d = a.head_dim;
  let i = flat(id, 64u * groups.x);
  if (i >= a.n_head * d) { return; }
  let h = i / d;
  let shared_head = select(h / (a.n_head / a.n_head_k), h % a.n_head_k, a.is_tiled == 1u);
  let gate = h / a.group * a.group_stride + h % a.group;
  let width = (2u * a.n_head_k + a.n_head) * d;
  let column = a.state + a.state_stride * header(SLOT) + d * d * h + i % d;
  if (header(POSITION) == 0u) {
    for (var j = 0u; j < d; j++) { f[column + d * j] = 0.0; }
  }
  for (var t = 0u; t < header(N_TOKENS); t++) {
    let query = a.x + width * t + d * shared_head;
    let key = query + d * a.n_head_k;
    let value = a.x + width * t + 2u * d * a.n_head_k + i;
    let pace = softplus32(f[a.alpha + a.stride * t + gate] + f[a.dt_bias + h]);
    let decay = exp32(pace * f[a.a + h]);
    let beta = sigmoid32(f[a.beta + a.stride * t + gate]);
    var kept = 0.0;
    for (var j = 0u; j < d; j++) { kept += (f[column + d * j] * decay) * f[key + j]; }
    let wrong = (f[value] - kept) * beta;
    f[value] = wrong;
    var total = 0.0;
    for (var j = 0u; j < d; j++) {
      let new_value = f[column + d * j] * decay + f[key + j] * wrong;
      f[column + d * j] = new_value;
      total += new_value * f[query + j];
    }
    f[a.y + a.n_head * d * t + i] = total / sqrt(f32(d));
  }
}
