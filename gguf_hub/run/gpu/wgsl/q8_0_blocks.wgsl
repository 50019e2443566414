// include: quants.wgsl
// include: half.wgsl
// Eight threads a block of 32 (gguf/memory/activations.py).
var<workgroup> tops: array<atomic<u32>, 32>;
var<workgroup> totals: array<atomic<i32>, 32>;

// Quantises four values of each thread, of the 1024 that a workgroup has: element e, and after, of
// all rows. All threads call it; those that are not live write nothing.
fn quantize_four(li: u32, e: u32, is_live: bool, x: vec4<f32>) {
  let n_block = a.width / 32u;
  let row = e / a.width;
  let b = e % a.width / 32u;
  workgroupBarrier();
  if (li < 32u) {
    atomicStore(&tops[li], 0u);
    atomicStore(&totals[li], 0);
  }
  workgroupBarrier();
  if (is_live) { atomicMax(&tops[li / 8u], magnitude_bits(x)); }
  workgroupBarrier();
  let top = atomicLoad(&tops[li / 8u]);
  let v = quants_of(x, inverse_of(top));
  if (is_live) { atomicAdd(&totals[li / 8u], v.x + v.y + v.z + v.w); }
  workgroupBarrier();
  if (!is_live) { return; }
  let words = (a.xq + 36u * n_block * row) / 4u;
  q[words + 8u * b + li % 8u] = bytes_of(v);
  if (li % 8u == 0u) {
    let total = atomicLoad(&totals[li / 8u]);
    let half = as_half(scale_of(top));
    let floats = a.xf + 2u * n_block * row + b;
    f[floats] = half;
    f[floats + n_block] = half * f32(total);
    q[words + 8u * n_block + b] = bitcast<u32>(total);
  }
}
