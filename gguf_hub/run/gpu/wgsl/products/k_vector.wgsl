// include: products/lanes_vector.wgsl
// Lane l adds blocks l, l + 8 ... one after another, as the CPU does.

fn lane_sum(job: Job, place: Place, row: u32, lane: u32) -> f32 {
  let n_blocks = a.n_in / 256u;
  let x = place.q / 16u;
  var total = 0.0;
  for (var b = lane; b < n_blocks; b += 8u) {
    let block = block_of(job.matrix, min(row, a.n_out - 1u), b, n_blocks);
    var p = vec2<i32>(0);
    if (IS_LONG) {
      for (var k = 0u; k < 4u; k++) { p += product_of(part_of(block, k), x, b, k); }
    } else {
      p = product_of(part_of(block, 0u), x, b, 0u) + product_of(part_of(block, 1u), x, b, 1u)
        + product_of(part_of(block, 2u), x, b, 2u) + product_of(part_of(block, 3u), x, b, 3u);
    }
    let factors = factors_of(block) * f[place.f + b];
    if (HAS_MINIMA) { total = fma(-factors.y, f32(p.y), total); }
    total = fma(factors.x, f32(p.x), total);
  }
  return total;
}
