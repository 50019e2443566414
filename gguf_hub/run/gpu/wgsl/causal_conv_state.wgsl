// include: convolution.wgsl
// one thread a channel
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let c = flat(id, 256u * groups.x);
  if (c < a.width) { keep_inputs(c); }
}
