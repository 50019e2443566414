// include: rows.wgsl
// include: rotation.wgsl
// a thread a pair of dimensions, in place
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.n_rot / 2u * a.n_head * header(N_TOKENS)) { return; }
  let head = i / (a.n_rot / 2u);
  rotate_pair(a.x + a.head_dim * head, a.table + a.n_rot * (head / a.n_head), i % (a.n_rot / 2u));
}
