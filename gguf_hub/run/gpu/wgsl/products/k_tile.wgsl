// 64 rows times 32 pairs, half a block at a time: 16 results a thread. Blocks are visited lane after
// lane, 0, 8 ... 1, 9 ..., so that each sum is that of one token alone, to the last bit.

// groups of sixteen lie in the order of the parts
var<workgroup> weights: array<vec4<u32>, 520>;  // [2 parts, 4 groups, ROW_STEP]
var<workgroup> scales: array<u32, 130>;  // [2, ROW_STEP], a byte for each group
var<workgroup> minima: array<u32, 130>;
var<workgroup> factors: array<vec2<f32>, ROWS>;
var<workgroup> quants: array<vec4<u32>, 264>;  // [2, 4, PAIR_STEP]
var<workgroup> sums: array<vec2<u32>, 66>;  // [2, PAIR_STEP], bytes: a sum is 128 times x plus y
var<workgroup> x_scales: array<f32, PAIRS>;

fn load_weights(job: Job, li: u32, row0: u32, b: u32, half: u32) {
  let n_blocks = a.n_in / 256u;
  let r = li % ROWS;
  let part = li / ROWS;
  let block = block_of(job.matrix, min(row0 + r, a.n_out - 1u), b, n_blocks);
  let p = part_of(block, 2u * half + part);
  let at = 4u * ROW_STEP * part + r;
  weights[at] = p.w0;
  weights[at + ROW_STEP] = p.w1;
  weights[at + 2u * ROW_STEP] = p.w2;
  weights[at + 3u * ROW_STEP] = p.w3;
  scales[ROW_STEP * part + r] = pack4xI8(p.scale);
  if (HAS_MINIMA) { minima[ROW_STEP * part + r] = pack4xI8(p.minimum); }
  if (li < ROWS) { factors[li] = factors_of(block); }
}

fn load_activations(li: u32, b: u32, half: u32) {
  for (var i = li; i < 8u * PAIRS; i += THREADS) {
    let place = places[i / 8u];
    let slot = i % 8u;
    let k = 2u * half + slot / 4u;
    let g = first_group(k) + GROUP_STEP * (slot % 4u);
    quants[PAIR_STEP * slot + i / 8u] = q[place.q / 16u + 16u * b + g];
    if (slot == 0u) { x_scales[i / 8u] = f[place.f + b]; }
  }
  if (HAS_SUMS && li < 2u * PAIRS) {
    let part = li / PAIRS;
    let x = places[li % PAIRS].q / 16u;
    var s = vec4<i32>(0);
    if (IS_STRIDED) {
      s = sums_of_16(x, b, half, part);
    } else {
      let two = sums_of_32(x, b, 2u * half + part);
      s = vec4<i32>(two.x, 0, two.y, 0);
    }
    sums[PAIR_STEP * part + li % PAIRS] =
        vec2<u32>(pack4xI8(s >> vec4<u32>(7u)), pack4xI8(s & vec4<i32>(127)));
  }
}

// two groups of pairs x, x + 8 ...
struct Columns {
  a0: vec4<u32>, a1: vec4<u32>, a2: vec4<u32>, a3: vec4<u32>,
  b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>,
};

fn columns_of(two: u32, x: u32) -> Columns {
  let i = 2u * PAIR_STEP * two + x;
  let j = i + PAIR_STEP;
  return Columns(quants[i], quants[i + 8u], quants[i + 16u], quants[i + 24u],
                 quants[j], quants[j + 8u], quants[j + 16u], quants[j + 24u]);
}

// adds two groups of a row times four pairs
fn add_two(products: vec4<i32>, row: u32, two: u32, x: Columns) -> vec4<i32> {
  let at = 2u * ROW_STEP * two + row;
  let w0 = weights[at];
  let w1 = weights[at + ROW_STEP];
  let d0 = vec4<i32>(dot16(w0, x.a0), dot16(w0, x.a1), dot16(w0, x.a2), dot16(w0, x.a3));
  let d1 = vec4<i32>(dot16(w1, x.b0), dot16(w1, x.b1), dot16(w1, x.b2), dot16(w1, x.b3));
  let both = scales[ROW_STEP * (two / 2u) + row] >> (16u * (two % 2u));
  if (GROUP == 32u) { return products + signed_byte(both, 0u) * (d0 + d1); }
  return products + signed_byte(both, 0u) * d0 + signed_byte(both, 1u) * d1;
}

// minima, or scales where weights have an offset, times sums of four pairs, over both parts
fn minima_of(row: u32, x: u32) -> vec4<i32> {
  var total = vec4<i32>(0);
  for (var part = 0u; part < 2u; part++) {
    let at = ROW_STEP * part + row;
    let bytes = select(scales[at], minima[at], HAS_MINIMA);
    let i = PAIR_STEP * part + x;
    let s0 = sums[i];
    let s1 = sums[i + 8u];
    let s2 = sums[i + 16u];
    let s3 = sums[i + 24u];
    total += vec4<i32>(dot4I8Packed(bytes, s0.x), dot4I8Packed(bytes, s1.x),
                       dot4I8Packed(bytes, s2.x), dot4I8Packed(bytes, s3.x)) * 128
           + vec4<i32>(dot4I8Packed(bytes, s0.y), dot4I8Packed(bytes, s1.y),
                       dot4I8Packed(bytes, s2.y), dot4I8Packed(bytes, s3.y));
  }
  return total;
}

struct Integers { products: vec4<i32>, minima: vec4<i32> };

fn add_half(sum: Integers, products: vec4<i32>, row: u32, x: u32) -> Integers {
  if (!HAS_SUMS) { return Integers(products, sum.minima); }
  let m = minima_of(row, x);
  if (HAS_MINIMA) { return Integers(products, sum.minima + m); }
  return Integers(products - OFFSET * m, sum.minima);
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
        var d0 = s0.products;
        var d1 = s1.products;
        var d2 = s2.products;
        var d3 = s3.products;
        for (var two = 0u; two < 4u; two++) {
          let columns = columns_of(two, x);
          d0 = add_two(d0, r, two, columns);
          d1 = add_two(d1, r + 16u, two, columns);
          d2 = add_two(d2, r + 32u, two, columns);
          d3 = add_two(d3, r + 48u, two, columns);
        }
        s0 = add_half(s0, d0, r, x);
        s1 = add_half(s1, d1, r + 16u, x);
        s2 = add_half(s2, d2, r + 32u, x);
        s3 = add_half(s3, d3, r + 48u, x);
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
  store_sixteen(job, row0 + r, x, t0, t1, t2, t3);
}
