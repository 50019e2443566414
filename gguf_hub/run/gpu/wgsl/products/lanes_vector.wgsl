// One pair: eight lanes a row, which are then added one after another, as the CPU does. Who includes
// this says what a lane adds up: `fn lane_sum(job: Job, place: Place, row: u32, lane: u32) -> f32`. A
// row may lie behind the last one.

const THREADS = 64u;
const ROWS = 8u;
var<workgroup> sums: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let job = job_of_pair(wg);
  if (is_idle(job)) { return; }
  prepare(li);
  workgroupBarrier();
  let place = place_in(job, 0u);
  let lane = li % 8u;
  let row = ROWS * wg.x + li / 8u;
  sums[li] = lane_sum(job, place, row, lane);
  workgroupBarrier();
  if (lane == 0u && row < a.n_out) {
    var y = 0.0;
    for (var k = 0u; k < 8u; k++) { y += sums[li + k]; }
    store(place.y + row, y);
  }
}
