// Up to four pairs: eight lanes a row, as for one pair. Who includes this says what a lane adds up:
// `fn lane_sums(job: Job, places: FourPlaces, row: u32, lane: u32) -> vec4<f32>`. A row may lie behind
// the last one.

const THREADS = 64u;
const ROWS = 8u;
var<workgroup> sums: array<vec4<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let job = job_of_tile(wg, 4u);
  if (is_idle(job)) { return; }
  prepare(li);
  workgroupBarrier();
  let places = four_places(job);
  let lane = li % 8u;
  let row = ROWS * wg.x + li / 8u;
  sums[li] = lane_sums(job, places, row, lane);
  workgroupBarrier();
  if (lane == 0u && row < a.n_out) {
    var y = vec4<f32>(0.0);
    for (var k = 0u; k < 8u; k++) { y += sums[li + k]; }
    store_few(job, places, row, y);
  }
}
