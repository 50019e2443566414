// A row is padded to whole vectors, two for eight weights.
fn eight_of(row: u32, i: u32) -> Eight {
  return Eight(bitcast<vec4<f32>>(w[row + 2u * i]), bitcast<vec4<f32>>(w[row + 2u * i + 1u]));
}
