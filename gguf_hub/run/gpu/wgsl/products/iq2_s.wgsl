// 32 low bytes of grid, 32 bytes of signs, 8 with two high bits for each grid, 8 of scales.

fn eight_of(block: Block, i: u32) -> vec2<u32> {
  let high = (byte_of(block, 66u + i / 4u) >> (2u * (i % 4u))) & 3u;
  return with_signs(long_grid(byte_of(block, 2u + i) | (high << 8u)), byte_of(block, 34u + i));
}
fn scale_of(block: Block, j: u32) -> i32 { return nibble_scale(block, 74u, j); }
fn factor_of(block: Block) -> f32 { return half_of(block, 0u) * 0.125; }
