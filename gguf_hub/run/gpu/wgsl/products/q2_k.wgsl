// Planes: 4 vectors of two bits, scales and minima in halves of bytes, words of d and dmin.

fn part_of(block: Block, k: u32) -> Part {
  let half = k >> 1u;
  let side = k & 1u;
  let q = vector_of(block, 0u, 4u, k);
  let three = vec4<u32>(0x03030303u);
  let s = vector_of(block, a.p1, 1u, 0u);
  let s0 = select(s.x, s.z, half == 1u) >> (8u * side);
  let s1 = select(s.y, s.w, half == 1u) >> (8u * side);
  let both = vec4<u32>(s0, s0 >> 16u, s1, s1 >> 16u);
  return Part(
    q & three, (q >> vec4<u32>(2u)) & three, (q >> FOUR) & three, (q >> vec4<u32>(6u)) & three,
    vec4<i32>(both & vec4<u32>(15u)), vec4<i32>((both >> FOUR) & vec4<u32>(15u)));
}

fn factors_of(block: Block) -> vec2<f32> {
  return unpack2x16float(word_at(block.base + a.p2, number_of(block)));
}
