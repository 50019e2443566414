// 64 rows times 32 pairs, four units of a lane at a time: 16 results a thread. Units are visited
// lane after lane, 0, 8 ... 1, 9 ..., so that each sum is that of one token alone, to the last bit.

const THREADS = 128u;
const ROWS = 64u;
const PAIRS = 32u;
const ROW_STEP = 65u;  // one more than there are: threads that store a row's units meet other banks
const PAIR_STEP = 33u;

var<workgroup> weights: array<vec4<u32>, 520>;  // [4 units, 2, ROW_STEP]
var<workgroup> factors: array<vec2<f32>, 260>;  // [4, ROW_STEP]
var<workgroup> quants: array<vec4<u32>, 264>;  // [4, 2, PAIR_STEP]
var<workgroup> x_scales: array<f32, 132>;  // [4, PAIR_STEP]
var<workgroup> sums: array<i32, 132>;
var<workgroup> scaled_sums: array<f32, 132>;
var<workgroup> places: array<Place, PAIRS>;

fn load_weights(job: Job, li: u32, row0: u32, first: u32, n_units: u32) {
  for (var i = li; i < 4u * ROWS; i += THREADS) {
    let k = i / ROWS;
    let r = i % ROWS;
    let b = min(first + 8u * k, n_units - 1u);
    let unit = unit_of(block_of(job.matrix, min(row0 + r, a.n_out - 1u), b, n_units));
    weights[ROW_STEP * (2u * k) + r] = unit.w0;
    weights[ROW_STEP * (2u * k + 1u) + r] = unit.w1;
    factors[ROW_STEP * k + r] = unit.factors;
  }
}

fn load_activations(li: u32, first: u32, n_units: u32) {
  let k = li % 4u;
  let x = activations_of(places[li / 4u], min(first + 8u * k, n_units - 1u));
  let t = li / 4u;
  quants[PAIR_STEP * (2u * k) + t] = x.x0;
  quants[PAIR_STEP * (2u * k + 1u) + t] = x.x1;
  x_scales[PAIR_STEP * k + t] = x.scale;
  sums[PAIR_STEP * k + t] = x.sum;
  scaled_sums[PAIR_STEP * k + t] = x.scaled_sum;
}

fn add_four(lane: vec4<f32>, row: u32, k: u32, x: u32) -> vec4<f32> {
  let w0 = weights[ROW_STEP * (2u * k) + row];
  let w1 = weights[ROW_STEP * (2u * k + 1u) + row];
  let i = PAIR_STEP * (2u * k) + x;
  let j = i + PAIR_STEP;
  let first = vec4<i32>(dot16(w0, quants[i]), dot16(w0, quants[i + 8u]), dot16(w0, quants[i + 16u]),
                        dot16(w0, quants[i + 24u]));
  let second = vec4<i32>(dot16(w1, quants[j]), dot16(w1, quants[j + 8u]), dot16(w1, quants[j + 16u]),
                         dot16(w1, quants[j + 24u]));
  let s = PAIR_STEP * k + x;
  let d = factors[ROW_STEP * k + row];
  let x_scale = vec4<f32>(x_scales[s], x_scales[s + 8u], x_scales[s + 16u], x_scales[s + 24u]);
  if (HAS_HALVES) {
    let result = fma(d.x * x_scale, vec4<f32>(first), lane);
    return fma(d.y * x_scale, vec4<f32>(second), result);
  }
  var products = first + second;
  if (OFFSET > 0) {
    products -= OFFSET * vec4<i32>(sums[s], sums[s + 8u], sums[s + 16u], sums[s + 24u]);
  }
  let result = fma(d.x * x_scale, vec4<f32>(products), lane);
  if (HAS_M) {
    let scaled = vec4<f32>(scaled_sums[s], scaled_sums[s + 8u], scaled_sums[s + 16u],
                           scaled_sums[s + 24u]);
    return fma(vec4<f32>(d.y), scaled, result);
  }
  return result;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let job = job_of_tile(wg, PAIRS);
  if (is_idle(job)) { return; }
  prepare(li);
  if (li < PAIRS) { places[li] = place_of(job, pair_at(job.begin + min(li, job.count - 1u))); }
  workgroupBarrier();
  let row0 = ROWS * wg.x;
  let r = li / 8u;
  let x = li % 8u;
  let n_units = a.n_in / 32u;
  var t0 = vec4<f32>(0.0);
  var t1 = vec4<f32>(0.0);
  var t2 = vec4<f32>(0.0);
  var t3 = vec4<f32>(0.0);
  for (var lane = 0u; lane < min(8u, n_units); lane++) {
    var l0 = vec4<f32>(0.0);
    var l1 = vec4<f32>(0.0);
    var l2 = vec4<f32>(0.0);
    var l3 = vec4<f32>(0.0);
    for (var b = lane; b < n_units; b += 32u) {
      load_weights(job, li, row0, b, n_units);
      load_activations(li, b, n_units);
      workgroupBarrier();
      for (var k = 0u; k < min(4u, (n_units - b + 7u) / 8u); k++) {
        l0 = add_four(l0, r, k, x);
        l1 = add_four(l1, r + 16u, k, x);
        l2 = add_four(l2, r + 32u, k, x);
        l3 = add_four(l3, r + 48u, k, x);
      }
      workgroupBarrier();
    }
    t0 += l0;
    t1 += l1;
    t2 += l2;
    t3 += l3;
  }
  store_four(job, row0 + r, x, t0);
  store_four(job, row0 + r + 16u, x, t1);
  store_four(job, row0 + r + 32u, x, t2);
  store_four(job, row0 + r + 48u, x, t3);
}
