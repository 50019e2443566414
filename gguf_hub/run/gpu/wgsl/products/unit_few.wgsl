// Up to four pairs: eight lanes a row, as for one pair.

const THREADS = 64u;
const ROWS = 8u;
var<workgroup> sums: array<vec4<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let job = job_of_tile(wg, 4u);
  if (is_idle(job)) { return; }
  prepare(li);
  workgroupBarrier();
  let p0 = place_in(job, 0u);
  let p1 = place_in(job, 1u);
  let p2 = place_in(job, 2u);
  let p3 = place_in(job, 3u);
  let lane = li % 8u;
  let row = ROWS * wg.x + li / 8u;
  let r = min(row, a.n_out - 1u);
  let n_units = a.n_in / 32u;
  var total = vec4<f32>(0.0);
  for (var b = lane; b < n_units; b += 8u) {
    let unit = unit_of(block_of(job.matrix, r, b, n_units));
    total.x = add_unit(total.x, unit, activations_of(p0, b));
    total.y = add_unit(total.y, unit, activations_of(p1, b));
    total.z = add_unit(total.z, unit, activations_of(p2, b));
    total.w = add_unit(total.w, unit, activations_of(p3, b));
  }
  sums[li] = total;
  workgroupBarrier();
  if (lane == 0u && row < a.n_out) {
    var y = vec4<f32>(0.0);
    for (var k = 0u; k < 8u; k++) { y += sums[li + k]; }
    store_few(job, vec4<u32>(p0.y, p1.y, p2.y, p3.y) + row, y);
  }
}
