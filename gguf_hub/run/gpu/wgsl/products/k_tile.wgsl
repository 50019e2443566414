// 64 rows times 32 pairs, half a block at a time: 16 results a thread. Blocks are visited lane after
// lane, 0, 8 ... 1, 9 ..., so that each sum is that of one token alone, to the last bit.

const THREADS = 128u;
const ROWS = 64u;
const PAIRS = 32u;
const ROW_STEP = 65u;  // one more than there are: threads that store a row's groups meet other banks
const PAIR_STEP = 33u;

var<workgroup> weights: array<vec4<u32>, 520>;  // [8, ROW_STEP]
var<workgroup> scales: array<u32, 520>;  // a scale and, in the upper half, a minimum
var<workgroup> factors: array<vec2<f32>, ROWS>;
var<workgroup> quants: array<vec4<u32>, 264>;  // [8, PAIR_STEP]
var<workgroup> sums: array<i32, 264>;
var<workgroup> x_scales: array<f32, PAIRS>;
var<workgroup> places: array<Place, PAIRS>;

fn keep(at: u32, bytes: vec4<u32>, scale: i32, minimum: i32) {
  weights[at] = bytes;
  scales[at] = (u32(scale) & 0xffffu) | (u32(minimum) << 16u);
}

fn load_weights(job: Job, li: u32, row0: u32, b: u32, half: u32) {
  let n_blocks = a.n_in / 256u;
  let row = min(row0 + li % ROWS, a.n_out - 1u);
  let block = block_of(job.matrix, row, b, n_blocks);
  let k = 2u * half + li / ROWS;
  let p = part_of(block, k);
  let at = ROW_STEP * (first_group(k) - 8u * half) + li % ROWS;
  keep(at, p.w0, p.scale.x, p.minimum.x);
  keep(at + ROW_STEP * GROUP_STEP, p.w1, p.scale.y, p.minimum.y);
  keep(at + 2u * ROW_STEP * GROUP_STEP, p.w2, p.scale.z, p.minimum.z);
  keep(at + 3u * ROW_STEP * GROUP_STEP, p.w3, p.scale.w, p.minimum.w);
  if (li < ROWS) { factors[li] = factors_of(block); }
}

fn load_activations(li: u32, b: u32, half: u32) {
  for (var i = li; i < 8u * PAIRS; i += THREADS) {
    let g = i % 8u;
    let place = places[i / 8u];
    let x = place.q / 16u;
    let at = PAIR_STEP * g + i / 8u;
    quants[at] = q[x + 16u * b + 8u * half + g];
    if (HAS_SUMS) {
      if (IS_STRIDED) {
        sums[at] = sums_of_16(x, b, half, g & 1u)[g >> 1u];
      } else {
        sums[at] = sums_of_32(x, b, 2u * half + (g >> 2u))[(g >> 1u) & 1u];
      }
    }
    if (g == 0u) { x_scales[i / 8u] = f[place.f + b]; }
  }
}

struct Integers { products: vec4<i32>, minima: vec4<i32> };

// group g of pairs x, x + 8 ...: quants and their sums
struct Columns { x0: vec4<u32>, x1: vec4<u32>, x2: vec4<u32>, x3: vec4<u32>, sums: vec4<i32> };

fn columns_of(g: u32, x: u32) -> Columns {
  let i = PAIR_STEP * g + x;
  var s = vec4<i32>(0);
  if (HAS_SUMS) { s = vec4<i32>(sums[i], sums[i + 8u], sums[i + 16u], sums[i + 24u]); }
  return Columns(quants[i], quants[i + 8u], quants[i + 16u], quants[i + 24u], s);
}

// adds group g of a row times four pairs
fn add_group(sum: Integers, row: u32, g: u32, x: Columns) -> Integers {
  let at = ROW_STEP * g + row;
  let packed = i32(scales[at]);
  let bytes = weights[at];
  let products = vec4<i32>(dot16(bytes, x.x0), dot16(bytes, x.x1), dot16(bytes, x.x2),
                           dot16(bytes, x.x3));
  let scale = (packed << 16u) >> 16u;
  if (IS_STRIDED) {
    return Integers(sum.products + scale * (products - OFFSET * x.sums),
                    sum.minima + (packed >> 16u) * x.sums);
  }
  let minimum = select(packed >> 16u, 0, (g & 1u) == 1u);  // one for 32 weights
  return Integers(sum.products + scale * products, sum.minima + minimum * x.sums);
}

fn finish(lane: vec4<f32>, sum: Integers, row: u32, x_scale: vec4<f32>) -> vec4<f32> {
  var result = lane;
  let d = factors[row];
  if (HAS_MINIMA) { result = fma(-d.y * x_scale, vec4<f32>(sum.minima), result); }
  return fma(d.x * x_scale, vec4<f32>(sum.products), result);
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
  let n_blocks = a.n_in / 256u;
  let zero = Integers(vec4<i32>(0), vec4<i32>(0));
  var t0 = vec4<f32>(0.0);
  var t1 = vec4<f32>(0.0);
  var t2 = vec4<f32>(0.0);
  var t3 = vec4<f32>(0.0);
  for (var lane = 0u; lane < min(8u, n_blocks); lane++) {
    var l0 = vec4<f32>(0.0);
    var l1 = vec4<f32>(0.0);
    var l2 = vec4<f32>(0.0);
    var l3 = vec4<f32>(0.0);
    for (var b = lane; b < n_blocks; b += 8u) {
      var s0 = zero;
      var s1 = zero;
      var s2 = zero;
      var s3 = zero;
      for (var half = 0u; half < 2u; half++) {
        load_weights(job, li, row0, b, half);
        load_activations(li, b, half);
        workgroupBarrier();
        for (var g = 0u; g < 8u; g++) {
          let columns = columns_of(g, x);
          s0 = add_group(s0, r, g, columns);
          s1 = add_group(s1, r + 16u, g, columns);
          s2 = add_group(s2, r + 32u, g, columns);
          s3 = add_group(s3, r + 48u, g, columns);
        }
        if (half == 1u) {
          let x_scale = vec4<f32>(x_scales[x], x_scales[x + 8u], x_scales[x + 16u], x_scales[x + 24u]);
          l0 = finish(l0, s0, r, x_scale);
          l1 = finish(l1, s1, r + 16u, x_scale);
          l2 = finish(l2, s2, r + 32u, x_scale);
          l3 = finish(l3, s3, r + 48u, x_scale);
        }
        workgroupBarrier();
      }
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
