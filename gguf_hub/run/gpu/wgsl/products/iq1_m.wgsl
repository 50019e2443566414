// 32 low bytes of grid, 16 with twice three high bits and a sign, 8 of scales and the factor, of
// which the top four bits of each of the four words are a quarter.

fn eight_of(block: Block, i: u32) -> vec2<u32> {
  let high = byte_of(block, 32u + i / 2u) >> (4u * (i & 1u));
  let flips = select(0u, 0x02020202u, (high & 8u) != 0u);
  let index = byte_of(block, i) | ((high & 7u) << 8u);
  return less_2(long_grid(index) ^ vec2<u32>(flips), GRID_OFFSET * 0x01010101u);
}
fn scale_of(block: Block, j: u32) -> i32 {
  return i32(2u * ((short_of(block, 48u + 2u * (j / 4u)) >> (3u * (j % 4u))) & 7u) + 1u);
}
fn factor_of(block: Block) -> f32 {
  let low = (byte_of(block, 49u) >> 4u) | (byte_of(block, 51u) & 0xf0u);
  let high = (byte_of(block, 53u) >> 4u) | (byte_of(block, 55u) & 0xf0u);
  return unpack2x16float(low | (high << 8u)).x * 0.125;
}
