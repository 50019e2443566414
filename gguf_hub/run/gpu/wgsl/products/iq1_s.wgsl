// 32 low bytes of grid; of each 32 weights four times three high bits, a scale, a sign: whether all
// of them are an eighth less or more.

fn eight_of(block: Block, i: u32) -> vec2<u32> {
  let high = short_of(block, 34u + 2u * (i / 4u));
  let index = byte_of(block, 2u + i) | (((high >> (3u * (i % 4u))) & 7u) << 8u);
  let flips = select(0u, 0x02020202u, (high & 0x8000u) != 0u);
  return less_2(long_grid(index) ^ vec2<u32>(flips), GRID_OFFSET * 0x01010101u);
}
fn scale_of(block: Block, j: u32) -> i32 {
  return i32(2u * ((byte_of(block, 35u + 2u * j) >> 4u) & 7u) + 1u);
}
fn factor_of(block: Block) -> f32 { return half_of(block, 0u) * 0.125; }
