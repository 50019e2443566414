// 64 rows times 32 pairs, four units of a lane at a time: 16 results a thread. Units are visited
// lane after lane, 0, 8 ... 1, 9 ..., so that each sum is that of one token alone, to the last bit.

var<workgroup> weights: array<vec4<u32>, 520>;  // [4 units, 2, ROW_STEP]
var<workgroup> factors: array<vec2<f32>, 260>;  // [4, ROW_STEP]
var<workgroup> quants: array<vec4<u32>, 264>;  // [4, 2, PAIR_STEP]
var<workgroup> x_scales: array<f32, 132>;  // [4, PAIR_STEP]
var<workgroup> sums: array<i32, 132>;
var<workgroup> scaled_sums: array<f32, 132>;

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

// unit k of pairs x, x + 8 ...: the vectors of each, their scales, and of both sums what is used
struct Columns {
  a0: vec4<u32>, a1: vec4<u32>, a2: vec4<u32>, a3: vec4<u32>,
  b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>,
  scales: vec4<f32>, sums: vec4<i32>, scaled_sums: vec4<f32>,
};

fn columns_of(k: u32, x: u32) -> Columns {
  let i = PAIR_STEP * (2u * k) + x;
  let j = i + PAIR_STEP;
  let s = PAIR_STEP * k + x;
  return Columns(
    quants[i], quants[i + 8u], quants[i + 16u], quants[i + 24u],
    quants[j], quants[j + 8u], quants[j + 16u], quants[j + 24u],
    vec4<f32>(x_scales[s], x_scales[s + 8u], x_scales[s + 16u], x_scales[s + 24u]),
    vec4<i32>(sums[s], sums[s + 8u], sums[s + 16u], sums[s + 24u]),
    vec4<f32>(scaled_sums[s], scaled_sums[s + 8u], scaled_sums[s + 16u], scaled_sums[s + 24u]));
}

fn add_four(lane: vec4<f32>, row: u32, k: u32, x: Columns) -> vec4<f32> {
  let w0 = weights[ROW_STEP * (2u * k) + row];
  let w1 = weights[ROW_STEP * (2u * k + 1u) + row];
  let d = factors[ROW_STEP * k + row];
  let first = vec4<i32>(dot16(w0, x.a0), dot16(w0, x.a1), dot16(w0, x.a2), dot16(w0, x.a3));
  let second = vec4<i32>(dot16(w1, x.b0), dot16(w1, x.b1), dot16(w1, x.b2), dot16(w1, x.b3));
  if (HAS_HALVES) {
    return fma(d.y * x.scales, vec4<f32>(second), fma(d.x * x.scales, vec4<f32>(first), lane));
  }
  let products = first + second - OFFSET * x.sums;
  let result = fma(d.x * x.scales, vec4<f32>(products), lane);
  if (HAS_M) { return fma(vec4<f32>(d.y), x.scaled_sums, result); }
  return result;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let job = job_of_tile(wg, PAIRS);
  if (is_idle(job)) { return; }
  prepare(li);
  if (li < PAIRS) { places[li] = place_in(job, li); }
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
        let columns = columns_of(k, x);
        l0 = add_four(l0, r, k, columns);
        l1 = add_four(l1, r + 16u, k, columns);
        l2 = add_four(l2, r + 32u, k, columns);
        l3 = add_four(l3, r + 48u, k, columns);
      }
      workgroupBarrier();
    }
    t0 += l0;
    t1 += l1;
    t2 += l2;
    t3 += l3;
  }
  store_sixteen(job, row0 + r, x, t0, t1, t2, t3);
}
