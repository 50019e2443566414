// include: rows.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * a.n_expert_used * header(a.count)) { return; }
  let pair = i / a.width;
  f[a.y + i] = f[a.weights + pair] * f[a.x + a.width * (pair / a.n_expert_used) + i % a.width];
}
