// A row is padded to whole vectors.
fn eight_of(row: u32, i: u32) -> Eight {
  let v = w[row + i];
  return Eight(vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)),
               vec4<f32>(unpack2x16float(v.z), unpack2x16float(v.w)));
}
