// One pair: 32 threads a row, four times eight weights each at a time.

const THREADS = 64u;
const ROWS = 2u;
var<workgroup> sums: array<f32, THREADS>;

fn add_eight(total: vec4<f32>, e: Eight, x: u32, i: u32) -> vec4<f32> {
  return fma(e.b, four_activations(x, 8u * i + 4u), fma(e.a, four_activations(x, 8u * i), total));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let job = job_of_pair(wg);
  if (is_idle(job)) { return; }
  let place = place_in(job, 0u);
  let row = ROWS * wg.x + li / 32u;
  let first = row_of(job.matrix, min(row, a.n_out - 1u));
  let n_eights = (a.n_in + 7u) / 8u;
  var total = vec4<f32>(0.0);
  for (var i = li % 32u; i < n_eights; i += 128u) {
    let e0 = eight_of(first, i);
    let e1 = eight_of(first, min(i + 32u, n_eights - 1u));
    let e2 = eight_of(first, min(i + 64u, n_eights - 1u));
    let e3 = eight_of(first, min(i + 96u, n_eights - 1u));
    total = add_eight(total, e0, place.f, i);
    if (i + 32u < n_eights) { total = add_eight(total, e1, place.f, i + 32u); }
    if (i + 64u < n_eights) { total = add_eight(total, e2, place.f, i + 64u); }
    if (i + 96u < n_eights) { total = add_eight(total, e3, place.f, i + 96u); }
  }
  sums[li] = (total.x + total.z) + (total.y + total.w);
  workgroupBarrier();
  for (var step = 16u; step > 0u; step >>= 1u) {
    if (li % 32u < step) { sums[li] += sums[li + step]; }
    workgroupBarrier();
  }
  if (li % 32u == 0u && row < a.n_out) { store(place.y + row, sums[li]); }
}
