// Grids lie in front of the weights (see `layouts`): vectors of eight or four bytes, which are
// weights plus GRID_OFFSET. A sign turns a weight round.

fn long_grid(i: u32) -> vec2<u32> { return vec2<u32>(w[2u * i], w[2u * i + 1u]); }

fn with_signs(bytes: vec2<u32>, signs: u32) -> vec2<u32> {
  let minus = vec2<u32>(spread(signs), spread(signs >> 4u));
  return less_2((bytes ^ (minus * 0x7fu)) + minus, GRID_OFFSET * 0x01010101u);
}

// seven signs; the eighth makes the number of negative weights even
fn with_seven_signs(bytes: vec2<u32>, signs: u32) -> vec2<u32> {
  return with_signs(bytes, signs | ((countOneBits(signs) & 1u) << 7u));
}
