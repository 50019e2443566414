// include: products/lanes_few.wgsl
// Lane l adds blocks l, l + 8 ... one after another.

struct Integers { products: vec4<i32>, minima: vec4<i32> };

fn add_part(sum: Integers, block: Block, x: vec4<u32>, b: u32, k: u32) -> Integers {
  let p = part_of(block, k);
  let r0 = product_of(p, x.x, b, k);
  let r1 = product_of(p, x.y, b, k);
  let r2 = product_of(p, x.z, b, k);
  let r3 = product_of(p, x.w, b, k);
  return Integers(sum.products + vec4<i32>(r0.x, r1.x, r2.x, r3.x),
                  sum.minima + vec4<i32>(r0.y, r1.y, r2.y, r3.y));
}

fn lane_sums(job: Job, at: FourPlaces, row: u32, lane: u32) -> vec4<f32> {
  let n_blocks = a.n_in / 256u;
  let x = vec4<u32>(at.p0.q, at.p1.q, at.p2.q, at.p3.q) / 16u;
  var total = vec4<f32>(0.0);
  for (var b = lane; b < n_blocks; b += 8u) {
    let block = block_of(job.matrix, min(row, a.n_out - 1u), b, n_blocks);
    var sum = Integers(vec4<i32>(0), vec4<i32>(0));
    for (var k = 0u; k < 4u; k++) { sum = add_part(sum, block, x, b, k); }
    let x_scale = vec4<f32>(f[at.p0.f + b], f[at.p1.f + b], f[at.p2.f + b], f[at.p3.f + b]);
    let factors = factors_of(block);
    if (HAS_MINIMA) { total = fma(-factors.y * x_scale, vec4<f32>(sum.minima), total); }
    total = fma(factors.x * x_scale, vec4<f32>(sum.products), total);
  }
  return total;
}
