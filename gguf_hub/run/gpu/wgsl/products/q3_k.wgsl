// Planes: 4 vectors of two bits, 2 of third bits, scales with d.

// six bits, less 32: four in a half of bytes 0 ... 7, two in one of the pairs of bytes 8 ... 11
fn scale_of(s: vec4<u32>, j: u32) -> i32 {
  let low = select(s.x, s.y, (j & 4u) != 0u) >> (8u * (j & 3u) + 4u * (j >> 3u));
  let high = s.z >> (8u * (j & 3u) + 2u * (j >> 2u));
  return i32((low & 15u) | ((high & 3u) << 4u)) - 32;
}

fn part_of(block: Block, k: u32) -> Part {
  let half = k >> 1u;
  let side = k & 1u;
  let q = vector_of(block, 0u, 4u, k);
  let third = vector_of(block, a.p1, 2u, side) >> vec4<u32>(4u * half);
  let three = vec4<u32>(0x03030303u);
  let four = vec4<u32>(0x04040404u);
  let s = vector_of(block, a.p2, 1u, 0u);
  let j = 8u * half + side;
  return Part(
    (q & three) | ((third << vec4<u32>(2u)) & four),
    ((q >> vec4<u32>(2u)) & three) | ((third << vec4<u32>(1u)) & four),
    ((q >> FOUR) & three) | (third & four),
    ((q >> vec4<u32>(6u)) & three) | ((third >> vec4<u32>(1u)) & four),
    vec4<i32>(scale_of(s, j), scale_of(s, j + 2u), scale_of(s, j + 4u), scale_of(s, j + 6u)),
    vec4<i32>(0));
}

fn factors_of(block: Block) -> vec2<f32> {
  return vec2<f32>(unpack2x16float(vector_of(block, a.p2, 1u, 0u).w).x, 0.0);
}
