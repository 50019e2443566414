// Halves by integer arithmetic: how pack2x16float rounds is the driver's choice.

// the 16 bits of the half nearest to a float, ties to even
fn half_bits(value: f32) -> u32 {
  let wide = bitcast<u32>(value);
  let sign = (wide >> 16u) & 0x8000u;
  let magnitude = wide & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u | ((magnitude >> 13u) & 0x3ffu); }
  if (magnitude < 0x38800000u) {
    // halves below 2**-14 are multiples of 2**-24, as are the floats from a half to one
    return sign | (bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u);
  }
  let rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u);
  return sign | min(rounded >> 13u, 0x7c00u);
}

// a positive float rounded to a half, or as it is where no normal half is near
fn as_half(value: f32) -> f32 {
  if (value < 0.00006103515625 || value > 65504.0) { return value; }
  return unpack2x16float(half_bits(value)).x;
}
