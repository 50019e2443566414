// include: norm.wgsl
// one workgroup a group, in place; each group has gains of its own
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>) {
  let part = flat(wg, groups.x);
  if (part >= a.n_group * header(a.count)) { return; }
  let row = a.x + a.width * part;
  let gains = a.gain + a.width * (part % a.n_group);
  let factor = norm_factor(li, row, a.width);
  for (var i = li; i < a.width; i += 1024u) {
    let at = places(i);
    put_elements(row, at, elements(row, at) * factor * elements(gains, at));
  }
}
