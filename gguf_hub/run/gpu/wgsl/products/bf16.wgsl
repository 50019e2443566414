// A row is padded to whole vectors. A value is the upper half of a float.
fn two_of(v: u32) -> vec2<f32> { return bitcast<vec2<f32>>(vec2<u32>(v << 16u, v & 0xffff0000u)); }
fn eight_of(row: u32, i: u32) -> Eight {
  let v = w[row + i];
  return Eight(vec4<f32>(two_of(v.x), two_of(v.y)), vec4<f32>(two_of(v.z), two_of(v.w)));
}
