// include: rows.wgsl
// include: elementary.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * a.per_row * header(a.count)) { return; }
  f[a.y + i] *= sigmoid32(f[a.gate + i / a.width]);
}
