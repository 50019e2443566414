// include: rows.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * a.per_row * header(a.count)) { return; }
  let item = i / a.width;
  let t = item / a.per_row;
  let part = item % a.per_row;
  f[a.y + a.y_stride * t + a.y_step * part + i % a.width] =
    f[a.x + a.x_stride * t + a.x_step * part + i % a.width];
}
