// include: rows.wgsl
// a thread an element of a token, which adds up its experts
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * header(a.count)) { return; }
  let first = a.n_expert_used * (i / a.width);
  var total = select(0.0, f[a.x + i], a.is_added == 1u);
  for (var pair = first; pair < first + a.n_expert_used; pair++) {
    let weight = select(1.0, f[a.weights + pair], a.is_weighted == 1u);
    total += weight * f[a.y + a.width * pair + i % a.width];
  }
  f[a.x + i] = total;
}
