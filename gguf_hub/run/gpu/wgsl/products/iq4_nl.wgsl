// Planes: halves of bytes, which TABLE has the weights of; halves d.

fn unit_of(block: Block) -> Unit {
  let number = number_of(block);
  let halves = halves_of(w[block.base + number]);
  return Unit(halves.low, halves.high, vec2<f32>(half_at(block.base + a.p1, number), 0.0));
}
