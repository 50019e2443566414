// include: products/lanes_vector.wgsl
// Lane l adds units l, l + 8 ... one after another, as the CPU does. Four at a time, so that a thread
// waits for many bytes at once.

fn lane_sum(job: Job, place: Place, row: u32, lane: u32) -> f32 {
  let r = min(row, a.n_out - 1u);
  let n_units = a.n_in / 32u;
  let last = n_units - 1u;
  var total = 0.0;
  for (var b = lane; b < n_units; b += 32u) {
    let u0 = unit_of(block_of(job.matrix, r, b, n_units));
    let u1 = unit_of(block_of(job.matrix, r, min(b + 8u, last), n_units));
    let u2 = unit_of(block_of(job.matrix, r, min(b + 16u, last), n_units));
    let u3 = unit_of(block_of(job.matrix, r, min(b + 24u, last), n_units));
    total = add_unit(total, u0, activations_of(place, b));
    if (b + 8u < n_units) { total = add_unit(total, u1, activations_of(place, b + 8u)); }
    if (b + 16u < n_units) { total = add_unit(total, u2, activations_of(place, b + 16u)); }
    if (b + 24u < n_units) { total = add_unit(total, u3, activations_of(place, b + 24u)); }
  }
  return total;
}
