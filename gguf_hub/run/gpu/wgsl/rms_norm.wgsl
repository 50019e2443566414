@group(0) @binding(0) var<uniform> a: Args;
@group(0) @binding(2) var<storage, read_write> f: array<f32>;

var<workgroup> sums: array<f32, 256>;

// one workgroup a part of a row
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let row = a.x + a.width * wg.x;
  var total = 0.0;
  for (var i = li; i < a.width; i += 256u) { total += f[row + i] * f[row + i]; }
  sums[li] = total;
  workgroupBarrier();
  for (var step = 128u; step > 0u; step >>= 1u) {
    if (li < step) { sums[li] += sums[li + step]; }
    workgroupBarrier();
  }
  let scale = inverseSqrt(sums[0] / f32(a.width) + f[a.epsilon]);
  for (var i = li; i < a.width; i += 256u) {
    f[a.y + a.width * wg.x + i] = f[row + i] * scale * f[a.gain + i];
  }
}
