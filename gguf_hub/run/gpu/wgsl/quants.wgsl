// Quantising activations: a thread takes four neighbours (run/kernels/generic/generic.py).
@group(0) @binding(3) var<storage, read_write> q: array<u32>;

// the largest magnitude as bits: of NaN and infinity they come last
fn magnitude_bits(x: vec4<f32>) -> u32 {
  let bits = bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu);
  return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

// the scale: NaN where a value is not finite
fn scale_of(top: u32) -> f32 {
  if (top >= 0x7f800000u) { return bitcast<f32>(top | 0x7fc00000u); }
  return bitcast<f32>(top) / 127.0;
}

// x / scale within 127, half away from zero; 0 for a scale of 0 or NaN
fn quants_of(x: vec4<f32>, scale: f32) -> vec4<i32> {
  if (!(scale > 0.0)) { return vec4<i32>(0); }
  let ratio = x / scale;
  let size = min(abs(ratio), vec4<f32>(127.0));
  let whole = floor(size);
  let rounded = whole + select(vec4<f32>(0.0), vec4<f32>(1.0), size - whole >= vec4<f32>(0.5));
  return vec4<i32>(select(-rounded, rounded, ratio > vec4<f32>(0.0)));
}

fn bytes_of(v: vec4<i32>) -> u32 {
  let b = bitcast<vec4<u32>>(v) & vec4<u32>(255u);
  return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}

fn four_at(at: u32) -> vec4<f32> { return vec4<f32>(f[at], f[at + 1u], f[at + 2u], f[at + 3u]); }
