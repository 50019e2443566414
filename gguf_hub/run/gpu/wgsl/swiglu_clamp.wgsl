// include: rows.wgsl
// include: elementary.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * header(a.count)) { return; }
  let most = f[a.limit];
  f[a.gate + i] = min(silu32(f[a.gate + i]), most) * clamp(f[a.up + i], -most, most);
}
