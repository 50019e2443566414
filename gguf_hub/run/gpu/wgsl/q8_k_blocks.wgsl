// include: quants.wgsl
// 64 threads a block of 256 (gguf/memory/activations.py).
var<workgroup> tops: array<atomic<u32>, 4>;
var<workgroup> totals: array<atomic<i32>, 64>;  // of 16 quants each

fn two_shorts(low: i32, high: i32) -> u32 {
  return (bitcast<u32>(low) & 0xffffu) | (bitcast<u32>(high) << 16u);
}

// Quantises four values of each thread, of the 1024 that a workgroup has: element e, and after, of
// all rows. All threads call it; those that are not live write nothing.
fn quantize_four(li: u32, e: u32, is_live: bool, x: vec4<f32>) {
  let n_block = a.width / 256u;
  let row = e / a.width;
  let b = e % a.width / 256u;
  let k = li % 64u;
  workgroupBarrier();
  if (li < 64u) {
    atomicStore(&tops[li / 16u], 0u);
    atomicStore(&totals[li], 0);
  }
  workgroupBarrier();
  if (is_live) { atomicMax(&tops[li / 64u], magnitude_bits(x)); }
  workgroupBarrier();
  let top = atomicLoad(&tops[li / 64u]);
  let scale = scale_of(top);
  let v = quants_of(x, inverse_of(top));
  if (is_live) { atomicAdd(&totals[li / 4u], v.x + v.y + v.z + v.w); }
  workgroupBarrier();
  if (!is_live) { return; }
  let words = (a.xq + 304u * n_block * row) / 4u;
  let floats = a.xf + 25u * n_block * row;
  q[words + 64u * b + k] = bytes_of(v);
  if (k == 0u) { f[floats + b] = scale; }
  if (k % 4u == 0u) {
    f[floats + n_block + 16u * b + k / 4u] = scale * f32(atomicLoad(&totals[li / 4u]));
  }
  if (k % 8u == 0u) {
    let first = atomicLoad(&totals[li / 4u]);
    let second = atomicLoad(&totals[li / 4u + 1u]);
    f[floats + 17u * n_block + 8u * b + k / 8u] = scale * f32(first + second);
    q[words + 64u * n_block + 8u * b + k / 8u] = two_shorts(first, second);
  }
  if (k % 16u == 0u) {
    let low = atomicLoad(&totals[li / 4u]) + atomicLoad(&totals[li / 4u + 1u]);
    let high = atomicLoad(&totals[li / 4u + 2u]) + atomicLoad(&totals[li / 4u + 3u]);
    q[words + 72u * n_block + 4u * b + k / 16u] = two_shorts(low, high);
  }
}
