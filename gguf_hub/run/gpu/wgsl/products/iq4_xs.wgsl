// Planes: 8 vectors of halves of bytes, which TABLE has the weights of; two words: d, scales.

fn header_of(block: Block) -> vec2<u32> {
  let pair = w[block.base + a.p1 + (number_of(block) >> 1u)];
  return select(pair.xy, pair.zw, (number_of(block) & 1u) == 1u);
}

// six bits, less 32: four in the second word, two in the upper half of the first
fn scale_of(header: vec2<u32>, j: u32) -> i32 {
  return i32(((header.y >> (4u * j)) & 15u) | (((header.x >> (16u + 2u * j)) & 3u) << 4u)) - 32;
}

fn part_of(block: Block, k: u32) -> Part {
  let first = halves_of(vector_of(block, 0u, 8u, 2u * k));
  let second = halves_of(vector_of(block, 0u, 8u, 2u * k + 1u));
  let header = header_of(block);
  let scales = vec2<i32>(scale_of(header, 2u * k), scale_of(header, 2u * k + 1u));
  return Part(first.low, first.high, second.low, second.high, scales.xxyy, vec4<i32>(0));
}

fn factors_of(block: Block) -> vec2<f32> {
  return vec2<f32>(unpack2x16float(header_of(block).x).x, 0.0);
}
