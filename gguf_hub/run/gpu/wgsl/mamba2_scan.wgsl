// include: scan.wgsl
// Mamba-2: S = e**(dt a) S + dt B x^T, y = C S + d x (arXiv 2405.21060, section 6).
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>) {
  let place = place_of(li, flat(wg, groups.x));
  let h = place.head;
  if (h >= a.n_head) { return; }
  let inner = a.n_head * a.head_dim;
  let i = a.head_dim * h + min(place.column, a.head_dim - 1u);
  let width = inner + 2u * a.n_group * a.n_state;
  let own_b = inner + a.n_state * (h / (a.n_head / a.n_group));
  var state: array<f32, OWN_ROWS> = read_state(place, a.n_state);
  for (var t = 0u; t < header(N_TOKENS); t++) {
    let x = f[a.x + width * t + i];
    var b: array<f32, OWN_ROWS> = own_elements(place, a.n_state, a.x + width * t + own_b);
    var c: array<f32, OWN_ROWS> =
      own_elements(place, a.n_state, a.x + width * t + own_b + a.n_group * a.n_state);
    let pace = softplus32(f[a.dt + a.dt_stride * t + h] + f[a.dt_bias + h]);
    let decay = exp32(pace * f[a.a + h]);
    var share = 0.0;
    for (var j = 0u; j < OWN_ROWS; j++) {
      state[j] = state[j] * decay + (pace * b[j]) * x;
      share += state[j] * c[j];
    }
    let total = sum_of_column(li, t, vec4<f32>(share, 0.0, 0.0, 0.0)).x;
    if (place.slice == 0u && place.is_live) { f[a.y + inner * t + i] = f[a.d + h] * x + total; }
  }
  write_state(place, a.n_state, state);
}
