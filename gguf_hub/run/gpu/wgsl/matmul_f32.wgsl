@group(0) @binding(0) var<uniform> a: Args;
@group(0) @binding(2) var<storage, read_write> f: array<f32>;
@group(0) @binding(6) var<storage, read> w: array<f32>;

var<workgroup> sums: array<f32, 64>;

// one workgroup a row and token
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  var total = 0.0;
  for (var i = li; i < a.n_in; i += 64u) {
    total += w[a.n_in * wg.x + i] * f[a.xf + a.xf_stride * wg.y + i];
  }
  sums[li] = total;
  workgroupBarrier();
  for (var step = 32u; step > 0u; step >>= 1u) {
    if (li < step) { sums[li] += sums[li + step]; }
    workgroupBarrier();
  }
  if (li == 0u) {
    let y = a.y + a.y_stride * wg.y + wg.x;
    f[y] = sums[0] + select(0.0, f[y], a.is_added == 1u);
  }
}
