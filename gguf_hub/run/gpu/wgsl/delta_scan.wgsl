// include: scan.wgsl
// The gated delta rule: S = g S, S = S + k beta (v - k^T S), y = q^T S / root(d) (arXiv 2412.06464,
// equation 10). With S after its decay, y is (q^T S + (q^T k) beta (v - k^T S)) / root(d): all three
// sums over rows are taken at once.
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>) {
  let place = place_of(li, flat(wg, groups.x));
  let h = place.head;
  if (h >= a.n_head) { return; }
  let d = a.head_dim;
  let i = d * h + min(place.column, d - 1u);
  let shared_head = select(h / (a.n_head / a.n_head_k), h % a.n_head_k, a.is_tiled == 1u);
  let gate = h / a.group * a.group_stride + h % a.group;
  let width = (2u * a.n_head_k + a.n_head) * d;
  var state: array<f32, OWN_ROWS> = read_state(place, d);
  for (var t = 0u; t < header(N_TOKENS); t++) {
    let first = a.x + width * t + d * shared_head;
    var query: array<f32, OWN_ROWS> = own_elements(place, d, first);
    var key: array<f32, OWN_ROWS> = own_elements(place, d, first + d * a.n_head_k);
    let at = a.x + width * t + 2u * d * a.n_head_k + i;
    let value = f[at];
    let pace = softplus32(f[a.alpha + a.stride * t + gate] + f[a.dt_bias + h]);
    let decay = exp32(pace * f[a.a + h]);
    let beta = sigmoid32(f[a.beta + a.stride * t + gate]);
    var share = vec4<f32>(0.0);
    for (var j = 0u; j < OWN_ROWS; j++) {
      state[j] *= decay;
      share += vec4<f32>(state[j] * key[j], state[j] * query[j], key[j] * query[j], 0.0);
    }
    let total = sum_of_column(li, t, share);
    let wrong = (value - total.x) * beta;
    for (var j = 0u; j < OWN_ROWS; j++) { state[j] += key[j] * wrong; }
    if (place.slice == 0u && place.is_live) {
      f[at] = wrong;
      f[a.y + a.n_head * d * t + i] = (total.y + total.z * wrong) / sqrt(f32(d));
    }
  }
  write_state(place, d, state);
}
