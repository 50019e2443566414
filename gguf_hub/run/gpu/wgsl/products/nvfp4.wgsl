// Planes: 32 bytes for 64 weights, of each sixteen all low halves, then all high ones, which TABLE
// has the weights of; four bytes of factors.

// half of an unsigned E4M3, whose one NaN is a zero here; the top bit says nothing
fn factor_of(byte: u32) -> f32 {
  let code = byte & 127u;
  if (code < 8u) { return f32(code) * 0.0009765625; }
  return select(bitcast<f32>((code << 20u) + (119u << 23u)), 0.0, code == 127u);
}

fn unit_of(block: Block) -> Unit {
  let number = number_of(block);
  let halves = halves_of(w[block.base + number]);
  let two = word_at(block.base + a.p1, number / 2u) >> (16u * (number & 1u));
  return Unit(vec4<u32>(halves.low.xy, halves.high.xy), vec4<u32>(halves.low.zw, halves.high.zw),
              vec2<f32>(factor_of(two & 255u), factor_of((two >> 8u) & 255u)));
}
