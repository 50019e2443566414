// one workgroup a part of a row, by 1024 elements; y may be x
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>) {
  let part = flat(wg, groups.x);
  if (part >= a.per_row * header(a.count)) { return; }
  let row = a.width * part;
  let factor = norm_factor(li, a.x + row, a.width);
  for (var begin = 0u; begin < a.width; begin += 1024u) {
    let i = begin + 4u * li;
    let is_live = i < a.width;
    var x = vec4<f32>(0.0);
    if (is_live) {
      x = four_at(a.x + row + i) * factor * four_at(a.gain + i);
      put_four(a.y + row + i, x);
    }
    quantize_four(li, row + i, is_live, x);
  }
}
