// include: rows.wgsl
// include: elementary.wgsl
// NaN stays NaN
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * header(a.count)) { return; }
  let x = f[a.x + i];
  f[a.x + i] = select(clamp(x, -f[a.cap], f[a.cap]), x, is_nan(x));
}
