// Planes: 2 vectors of bytes, halves d.

fn unit_of(block: Block) -> Unit {
  return Unit(vector_of(block, 0u, 2u, 0u), vector_of(block, 0u, 2u, 1u),
              vec2<f32>(half_at(block.base + a.p1, number_of(block)), 0.0));
}
