// Planes: 8 vectors of halves of bytes, [the fifth bits,] d and dmin with scales and minima.

fn header_of(block: Block) -> vec4<u32> {
  return vector_of(block, select(a.p1, a.p2, HAS_FIFTH), 1u, 0u);
}

// scales and minima of groups 2 k and 2 k + 1: six bits each, the upper two of 4 ... 7 apart
fn part_scales(h: vec4<u32>, k: u32) -> vec4<u32> {
  let shift = 16u * (k & 1u);
  let scales = h.y >> shift;
  let minima = h.z >> shift;
  if (k < 2u) {
    return vec4<u32>(scales & 63u, (scales >> 8u) & 63u, minima & 63u, (minima >> 8u) & 63u);
  }
  let low = h.w >> shift;
  return vec4<u32>((low & 15u) | ((scales >> 2u) & 48u), ((low >> 8u) & 15u) | ((scales >> 10u) & 48u),
                   ((low >> 4u) & 15u) | ((minima >> 2u) & 48u),
                   ((low >> 12u) & 15u) | ((minima >> 10u) & 48u));
}

fn part_of(block: Block, k: u32) -> Part {
  let first = vector_of(block, 0u, 8u, 2u * k);
  let second = vector_of(block, 0u, 8u, 2u * k + 1u);
  var w0 = first & NIBBLES;
  var w1 = second & NIBBLES;
  var w2 = (first >> FOUR) & NIBBLES;
  var w3 = (second >> FOUR) & NIBBLES;
  if (HAS_FIFTH) {
    let one = vec4<u32>(0x01010101u);
    let fifth = vector_of(block, a.p1, 2u, 0u) >> vec4<u32>(2u * k);
    let sixth = vector_of(block, a.p1, 2u, 1u) >> vec4<u32>(2u * k);
    w0 |= (fifth & one) << FOUR;
    w1 |= (sixth & one) << FOUR;
    w2 |= ((fifth >> vec4<u32>(1u)) & one) << FOUR;
    w3 |= ((sixth >> vec4<u32>(1u)) & one) << FOUR;
  }
  let s = vec4<i32>(part_scales(header_of(block), k));
  return Part(w0, w1, w2, w3, s.xxyy, s.zzww);
}

fn factors_of(block: Block) -> vec2<f32> { return unpack2x16float(header_of(block).x); }
