// 64 rows times 32 pairs, 32 weights at a time: 16 results a thread.

const THREADS = 128u;
const ROWS = 64u;
const PAIRS = 32u;
const ROW_STEP = 65u;
const PAIR_STEP = 33u;

var<workgroup> weights: array<vec4<f32>, 520>;  // [8, ROW_STEP]
var<workgroup> values: array<vec4<f32>, 264>;  // [8, PAIR_STEP]
var<workgroup> places: array<Place, PAIRS>;

fn load(job: Job, li: u32, row0: u32, i: u32, n_eights: u32) {
  for (var k = li; k < 4u * ROWS; k += THREADS) {
    let e = k % 4u;
    let r = k / 4u;
    var eight = Eight(vec4<f32>(0.0), vec4<f32>(0.0));
    if (i + e < n_eights) { eight = eight_of(row_of(job.matrix, min(row0 + r, a.n_out - 1u)), i + e); }
    weights[ROW_STEP * (2u * e) + r] = eight.a;
    weights[ROW_STEP * (2u * e + 1u) + r] = eight.b;
  }
  for (var k = li; k < 8u * PAIRS; k += THREADS) {
    values[PAIR_STEP * (k % 8u) + k / 8u] = four_activations(places[k / 8u].f, 8u * i + 4u * (k % 8u));
  }
}

fn add_four(total: vec4<f32>, row: u32, k: u32, x: u32) -> vec4<f32> {
  let weight = weights[ROW_STEP * k + row];
  let i = PAIR_STEP * k + x;
  return total + vec4<f32>(dot(weight, values[i]), dot(weight, values[i + 8u]),
                           dot(weight, values[i + 16u]), dot(weight, values[i + 24u]));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let job = job_of_tile(wg, PAIRS);
  if (is_idle(job)) { return; }
  if (li < PAIRS) { places[li] = place_of(job, pair_at(job.begin + min(li, job.count - 1u))); }
  workgroupBarrier();
  let row0 = ROWS * wg.x;
  let r = li / 8u;
  let x = li % 8u;
  let n_eights = (a.n_in + 7u) / 8u;
  var t0 = vec4<f32>(0.0);
  var t1 = vec4<f32>(0.0);
  var t2 = vec4<f32>(0.0);
  var t3 = vec4<f32>(0.0);
  for (var i = 0u; i < n_eights; i += 4u) {
    load(job, li, row0, i, n_eights);
    workgroupBarrier();
    for (var k = 0u; k < 8u; k++) {
      t0 = add_four(t0, r, k, x);
      t1 = add_four(t1, r + 16u, k, x);
      t2 = add_four(t2, r + 32u, k, x);
      t3 = add_four(t3, r + 48u, k, x);
    }
    workgroupBarrier();
  }
  store_four(job, row0 + r, x, t0);
  store_four(job, row0 + r + 16u, x, t1);
  store_four(job, row0 + r + 32u, x, t2);
  store_four(job, row0 + r + 48u, x, t3);
}
