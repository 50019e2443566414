// include: rows.wgsl
// include: streams.wgsl
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = flat(id, 256u * groups.x);
  if (i >= a.width * header(a.count)) { return; }
  let gates = a.gates + a.n_stream * (i / a.width);
  for (var j = 0u; j < a.n_stream; j += 1u) {
    var total = 0.0;
    for (var k = 0u; k < a.n_stream; k += 1u) {
      let row = a.weights + a.n_stream * (a.n_stream * j + k);
      total += gated(row, gates) * f[a.x + a.stride * k + i];
    }
    f[a.y + a.stride * j + i] = total + f[a.x + a.stride * j + i];
  }
}
