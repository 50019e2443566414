// include: rows.wgsl
// include: elementary.wgsl
// gpt-oss: gate up to 7, up within -7 .. 7; NaN stays NaN
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * header(a.count)) { return; }
  let gate = f[a.gate + i];
  let up = f[a.up + i];
  let x = select(gate, 7.0, gate > 7.0);
  let z = select(select(up, 7.0, up > 7.0), -7.0, up < -7.0);
  f[a.gate + i] = x * sigmoid32(1.702 * x) * (z + 1.0);
}
