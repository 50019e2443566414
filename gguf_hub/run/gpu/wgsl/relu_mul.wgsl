// include: rows.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * header(a.count)) { return; }
  let x = f[a.gate + i];
  f[a.gate + i] = select(x, 0.0, x < 0.0) * f[a.up + i];
}
