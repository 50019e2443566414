@group(0) @binding(6) var<storage, read> w: array<vec4<u32>>;

// vector j of the `of` that the block has in a plane
fn vector_of(block: Block, plane: u32, of_: u32, j: u32) -> vec4<u32> {
  return w[block.base + plane + of_ * block.first + block.step * j + block.lane];
}

// element i of a plane of words, halves or bytes
fn word_at(plane: u32, i: u32) -> u32 { return w[plane + (i >> 2u)][i & 3u]; }
fn half_at(plane: u32, i: u32) -> f32 {
  return unpack2x16float(word_at(plane, i >> 1u) >> (16u * (i & 1u))).x;
}
fn byte_at(plane: u32, i: u32) -> u32 { return (word_at(plane, i >> 2u) >> (8u * (i & 3u))) & 255u; }
