// 64 low bytes of grid, 8 with a high bit for each, 32 bytes of signs, 4 of scales.

fn eight_of(block: Block, i: u32) -> vec2<u32> {
  let high = byte_of(block, 66u + i / 4u) >> (2u * (i % 4u));
  let first = byte_of(block, 2u + 2u * i) | ((high & 1u) << 8u);
  let second = byte_of(block, 3u + 2u * i) | ((high & 2u) << 7u);
  return with_signs(vec2<u32>(w[first], w[second]), byte_of(block, 74u + i));
}
fn scale_of(block: Block, j: u32) -> i32 { return nibble_scale(block, 106u, j); }
fn factor_of(block: Block) -> f32 { return half_of(block, 0u); }
