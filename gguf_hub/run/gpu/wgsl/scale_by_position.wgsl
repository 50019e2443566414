// include: rows.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * header(N_TOKENS)) { return; }
  let position = header(POSITION) + i / a.width;
  let stretch = log(f32((position + a.offset) / a.length + 1u));
  f[a.x + i] *= 1.0 + f[a.scale] * stretch;
}
