// Four pairs of bits in a byte, each a weight plus 1; the block is: 64 bytes, d.

fn eight_of(block: Block, i: u32) -> vec2<u32> {
  let first = 8u * (i / 16u) + 2u * (i % 4u);
  let packed = vec2<u32>(word_of(block, first), word_of(block, first + 1u));
  let bits = (packed >> vec2<u32>(2u * (i / 4u % 4u))) & vec2<u32>(0x03030303u);
  return less_2(bits, 0x01010101u);
}
fn scale_of(block: Block, j: u32) -> i32 { return 1; }
fn factor_of(block: Block) -> f32 { return half_of(block, 64u); }
