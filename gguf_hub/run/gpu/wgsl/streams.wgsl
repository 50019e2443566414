// A token's gates, one for each stream, times a row of weights.
fn gated(row: u32, gates: u32) -> f32 {
  var total = 0.0;
  for (var m = 0u; m < a.n_stream; m += 1u) { total += f[row + m] * f[gates + m]; }
  return total;
}
