// Planes: two bits for each of 64 weights, less 1; halves d.

fn four_of(byte: u32) -> u32 {
  let b = byte & 255u;
  return less((b | (b << 6u) | (b << 12u) | (b << 18u)) & 0x03030303u, 0x01010101u);
}
fn sixteen_of(v: u32) -> vec4<u32> {
  return vec4<u32>(four_of(v), four_of(v >> 8u), four_of(v >> 16u), four_of(v >> 24u));
}

fn unit_of(block: Block) -> Unit {
  let number = number_of(block);
  return Unit(sixteen_of(word_at(block.base, 2u * number)),
              sixteen_of(word_at(block.base, 2u * number + 1u)),
              vec2<f32>(half_at(block.base + a.p1, number / 2u), 0.0));
}
