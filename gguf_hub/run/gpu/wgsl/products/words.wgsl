// One plane: the bytes of a block, `BLOCK_WORDS` words.
@group(0) @binding(6) var<storage, read> w: array<u32>;

fn word_of(block: Block, j: u32) -> u32 {
  return w[block.base + BLOCK_WORDS * block.first + block.step * j + block.lane];
}
fn byte_of(block: Block, i: u32) -> u32 { return (word_of(block, i >> 2u) >> (8u * (i & 3u))) & 255u; }
// two bytes that lie in one word
fn short_of(block: Block, i: u32) -> u32 {
  return (word_of(block, i >> 2u) >> (8u * (i & 3u))) & 0xffffu;
}
