// include: norm.wgsl
// one workgroup a part of a row, in place
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>) {
  let part = flat(wg, groups.x);
  if (part >= a.per_row * header(a.count)) { return; }
  let row = a.x + a.stride * (part / a.per_row) + a.width * (part % a.per_row);
  let factor = norm_factor(li, row, 1u);
  for (var i = li; i < a.width; i += 1024u) {
    let at = places(i);
    put_elements(row, at, elements(row, at) * factor);
  }
}
