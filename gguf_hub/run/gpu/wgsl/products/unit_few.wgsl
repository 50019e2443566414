// include: products/lanes_few.wgsl
// Lane l adds units l, l + 8 ... one after another.

fn lane_sums(job: Job, at: FourPlaces, row: u32, lane: u32) -> vec4<f32> {
  let r = min(row, a.n_out - 1u);
  let n_units = a.n_in / 32u;
  var total = vec4<f32>(0.0);
  for (var b = lane; b < n_units; b += 8u) {
    let unit = unit_of(block_of(job.matrix, r, b, n_units));
    total.x = add_unit(total.x, unit, activations_of(at.p0, b));
    total.y = add_unit(total.y, unit, activations_of(at.p1, b));
    total.z = add_unit(total.z, unit, activations_of(at.p2, b));
    total.w = add_unit(total.w, unit, activations_of(at.p3, b));
  }
  return total;
}
