// Blocks of 256 weights whose codes a type's own file reads: `eight_of`, `scale_of`, `factor_of`.

fn part_of(block: Block, k: u32) -> Part {
  let e0 = eight_of(block, 8u * k);
  let e1 = eight_of(block, 8u * k + 1u);
  let e2 = eight_of(block, 8u * k + 2u);
  let e3 = eight_of(block, 8u * k + 3u);
  let e4 = eight_of(block, 8u * k + 4u);
  let e5 = eight_of(block, 8u * k + 5u);
  let e6 = eight_of(block, 8u * k + 6u);
  let e7 = eight_of(block, 8u * k + 7u);
  var scale = vec4<i32>(0);
  if (GROUP == 16u) {
    scale = vec4<i32>(scale_of(block, 4u * k), scale_of(block, 4u * k + 1u),
                      scale_of(block, 4u * k + 2u), scale_of(block, 4u * k + 3u));
  } else {
    scale = vec2<i32>(scale_of(block, 2u * k), scale_of(block, 2u * k + 1u)).xxyy;
  }
  return Part(vec4<u32>(e0, e1), vec4<u32>(e2, e3), vec4<u32>(e4, e5), vec4<u32>(e6, e7), scale,
              vec4<i32>(0));
}

fn factors_of(block: Block) -> vec2<f32> { return vec2<f32>(factor_of(block), 0.0); }

fn half_of(block: Block, i: u32) -> f32 { return unpack2x16float(short_of(block, i)).x; }

// a number of four bytes that begins at an even one
fn long_of(block: Block, i: u32) -> u32 { return short_of(block, i) | (short_of(block, i + 2u) << 16u); }

// the scale 2 s + 1 of a group whose s is in the halves of bytes from `first` on
fn nibble_scale(block: Block, first: u32, j: u32) -> i32 {
  return i32(2u * ((byte_of(block, first + j / 2u) >> (4u * (j & 1u))) & 15u) + 1u);
}

fn less_2(bytes: vec2<u32>, fours: u32) -> vec2<u32> {
  return vec2<u32>(less(bytes.x, fours), less(bytes.y, fours));
}
