// Q4_0, Q4_1, Q5_0, Q5_1. Planes: halves of bytes, [fifth bits,] halves d or words of d and m.

fn unit_of(block: Block) -> Unit {
  let number = number_of(block);
  let packed = w[block.base + number];
  var low = packed & NIBBLES;
  var high = (packed >> FOUR) & NIBBLES;
  var plane = block.base + a.p1;
  if (HAS_FIFTH) {
    let fifth = word_at(plane, number);
    low |= spread16(fifth) << FOUR;
    high |= spread16(fifth >> 16u) << FOUR;
    plane = block.base + a.p2;
  }
  if (HAS_M) { return Unit(low, high, unpack2x16float(word_at(plane, number))); }
  return Unit(low, high, vec2<f32>(half_at(plane, number), 0.0));
}
