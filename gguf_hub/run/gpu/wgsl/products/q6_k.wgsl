// Planes: 8 vectors of four bits, 4 of two more, scales, halves d.

fn part_of(block: Block, k: u32) -> Part {
  let half = k >> 1u;
  let side = k & 1u;
  let l0 = vector_of(block, 0u, 8u, 4u * half + side);
  let l1 = vector_of(block, 0u, 8u, 4u * half + 2u + side);
  let high = vector_of(block, a.p1, 4u, 2u * half + side);
  let two = vec4<u32>(2u);
  let mask = vec4<u32>(0x30303030u);
  let s = vector_of(block, a.p2, 1u, 0u);
  let s0 = select(s.x, s.z, half == 1u);
  let s1 = select(s.y, s.w, half == 1u);
  return Part(
    (l0 & NIBBLES) | ((high << FOUR) & mask), (l1 & NIBBLES) | ((high << two) & mask),
    ((l0 >> FOUR) & NIBBLES) | (high & mask), ((l1 >> FOUR) & NIBBLES) | ((high >> two) & mask),
    vec4<i32>(signed_byte(s0, side), signed_byte(s0, side + 2u), signed_byte(s1, side),
              signed_byte(s1, side + 2u)), vec4<i32>(0));
}

fn factors_of(block: Block) -> vec2<f32> {
  return vec2<f32>(half_at(block.base + a.p3, number_of(block)), 0.0);
}
