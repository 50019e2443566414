// Planes: halves of bytes, which TABLE has the weights of; bytes e: the factor is 2^(e - 128).

fn unit_of(block: Block) -> Unit {
  let number = number_of(block);
  let halves = halves_of(w[block.base + number]);
  let e = byte_at(block.base + a.p1, number);
  let factor = bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << (e & 1u), e < 2u));
  return Unit(halves.low, halves.high, vec2<f32>(factor, 0.0));
}
