// include: rows.wgsl
// include: sums.wgsl
// The factor that norms the row at `first`: 1 / sqrt(mean of squares + epsilon); `parts` is 1 in
// place of its width for its length.
fn norm_factor(li: u32, first: u32, parts: u32) -> f32 {
  var total = 0.0;
  for (var i = li; i < a.width; i += 256u) { total += f[first + i] * f[first + i]; }
  return 1.0 / sqrt(sum_of_all(li, total) / f32(parts) + f[a.epsilon]);
}
