// Planes: a bit for each of 128 weights, 1 or -1; halves d.

fn signs_of(bits: u32) -> vec4<u32> {
  let bytes = spread16(bits) << vec4<u32>(1u);
  return vec4<u32>(less(bytes.x, 0x01010101u), less(bytes.y, 0x01010101u),
                   less(bytes.z, 0x01010101u), less(bytes.w, 0x01010101u));
}

fn unit_of(block: Block) -> Unit {
  let number = number_of(block);
  let bits = word_at(block.base, number);
  return Unit(signs_of(bits), signs_of(bits >> 16u),
              vec2<f32>(half_at(block.base + a.p1, number / 4u), 0.0));
}
