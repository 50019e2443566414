// include: rows.wgsl
// include: elementary.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * header(a.count)) { return; }
  let x = f[a.gate + i];
  let beta_x = f[a.a + 2u] * x;
  let below = select(x, f[a.a + 3u], x > f[a.a + 3u]);
  let negative = (expm132(below) - x) * f[a.a] + beta_x;
  f[a.gate + i] = select(negative, f[a.a + 1u] * x * x + beta_x, x > 0.0);
}
