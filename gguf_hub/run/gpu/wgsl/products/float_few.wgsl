// Up to four pairs: 32 threads a row, eight weights each at a time.

const THREADS = 64u;
const ROWS = 2u;
var<workgroup> sums: array<vec4<f32>, THREADS>;

fn product_of(e: Eight, x: u32, i: u32) -> f32 {
  return dot(e.a, four_activations(x, 8u * i)) + dot(e.b, four_activations(x, 8u * i + 4u));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let job = job_of_tile(wg, 4u);
  if (is_idle(job)) { return; }
  let at = four_places(job);
  let row = ROWS * wg.x + li / 32u;
  let first = row_of(job.matrix, min(row, a.n_out - 1u));
  let n_eights = (a.n_in + 7u) / 8u;
  var total = vec4<f32>(0.0);
  for (var i = li % 32u; i < n_eights; i += 32u) {
    let e = eight_of(first, i);
    total += vec4<f32>(product_of(e, at.p0.f, i), product_of(e, at.p1.f, i),
                       product_of(e, at.p2.f, i), product_of(e, at.p3.f, i));
  }
  sums[li] = total;
  workgroupBarrier();
  for (var step = 16u; step > 0u; step >>= 1u) {
    if (li % 32u < step) { sums[li] += sums[li + step]; }
    workgroupBarrier();
  }
  if (li % 32u == 0u && row < a.n_out) {
    store_few(job, at, row, sums[li]);
  }
}
