// 64 bytes of grid, twice four weights for eight; of each 32 weights 32 bits as in IQ2_XXS.

fn eight_of(block: Block, i: u32) -> vec2<u32> {
  let signs = (long_of(block, 66u + 4u * (i / 4u)) >> (7u * (i % 4u))) & 127u;
  let four = vec2<u32>(w[byte_of(block, 2u + 2u * i)], w[byte_of(block, 3u + 2u * i)]);
  return with_seven_signs(four, signs);
}
fn scale_of(block: Block, j: u32) -> i32 {
  return i32(2u * (byte_of(block, 69u + 4u * j) >> 4u) + 1u);
}
fn factor_of(block: Block) -> f32 { return half_of(block, 0u) * 0.25; }
