// Of each 32 weights: four bytes of grid, then 32 bits: four times seven signs, four of a scale.

fn eight_of(block: Block, i: u32) -> vec2<u32> {
  let group = 2u + 8u * (i / 4u);
  let signs = (long_of(block, group + 4u) >> (7u * (i % 4u))) & 127u;
  return with_seven_signs(long_grid(byte_of(block, group + i % 4u)), signs);
}
fn scale_of(block: Block, j: u32) -> i32 {
  return i32(2u * (byte_of(block, 9u + 8u * j) >> 4u) + 1u);
}
fn factor_of(block: Block) -> f32 { return half_of(block, 0u) * 0.125; }
