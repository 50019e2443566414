// Quantising activations: a thread takes four neighbours (run/kernels/quantize/simd_activations.py).
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

// what values are multiplied with; 0 for a row of zeros, and where one is not finite
fn inverse_of(top: u32) -> f32 {
  if (top == 0u || top >= 0x7f800000u) { return 0.0; }
  return 127.0 / bitcast<f32>(top);
}

// values times the inverse of their scale, halves to even
fn quants_of(x: vec4<f32>, inverse: f32) -> vec4<i32> {
  if (inverse == 0.0) { return vec4<i32>(0); }
  return vec4<i32>(clamp(round(x * inverse), vec4<f32>(-127.0), vec4<f32>(127.0)));
}

fn bytes_of(v: vec4<i32>) -> u32 {
  let b = bitcast<vec4<u32>>(v) & vec4<u32>(255u);
  return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}

fn four_at(at: u32) -> vec4<f32> { return vec4<f32>(f[at], f[at + 1u], f[at + 2u], f[at + 3u]); }

fn put_four(at: u32, x: vec4<f32>) {
  f[at] = x.x;
  f[at + 1u] = x.y;
  f[at + 2u] = x.z;
  f[at + 3u] = x.w;
}
