// 48 bytes of five digits, 4 of four digits, d: digits of 32, of 16 and of 4 bytes in turn. A byte is
// a fraction in base 3.

fn digit_of(bytes: u32, digit: u32) -> u32 {
  var power = 1u;
  for (var i = 0u; i < digit; i++) { power *= 3u; }
  let mask = 0x00ff00ffu;
  let even = ((((bytes & mask) * power) & mask) * 3u >> 8u) & mask;
  let odd = (((((bytes >> 8u) & mask) * power) & mask) * 3u >> 8u) & mask;
  return less(even | (odd << 8u), 0x01010101u);
}

fn eight_of(block: Block, i: u32) -> vec2<u32> {
  if (i >= 30u) {
    let last = word_of(block, 12u);
    return vec2<u32>(digit_of(last, 2u * i - 60u), digit_of(last, 2u * i - 59u));
  }
  let first = select(8u + 2u * (i & 1u), 2u * (i & 3u), i < 20u);
  let digit = select((i - 20u) / 2u, i / 4u, i < 20u);
  return vec2<u32>(digit_of(word_of(block, first), digit), digit_of(word_of(block, first + 1u), digit));
}
fn scale_of(block: Block, j: u32) -> i32 { return 1; }
fn factor_of(block: Block) -> f32 { return half_of(block, 52u); }
