// include: rows.wgsl
// include: streams.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * header(a.count)) { return; }
  let gates = a.gates + a.n_stream * (i / a.width);
  let change = f[a.x + i] - f[a.predicted + i];
  for (var j = 0u; j < a.n_stream; j += 1u) {
    let factor = gated(a.weights + a.n_stream * j, gates) + 1.0;
    f[a.y + a.stride * j + i] = change * factor + f[a.predicted + a.stride * j + i];
  }
}
