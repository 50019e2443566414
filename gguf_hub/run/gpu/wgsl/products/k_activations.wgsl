// Blocks of 256 weights, in four parts of 64, and activations of kind `q8_k`.

@group(0) @binding(3) var<storage, read> q: array<vec4<u32>>;

// Four groups of sixteen weights as bytes, each `OFFSET` too large, with scales and minima. Of part
// k these are groups 4 k ... 4 k + 3, or, if IS_STRIDED, 8 (k / 2) + k % 2 and every second.
struct Part {
  w0: vec4<u32>, w1: vec4<u32>, w2: vec4<u32>, w3: vec4<u32>, scale: vec4<i32>, minimum: vec4<i32>,
};

fn first_group(k: u32) -> u32 {
  if (IS_STRIDED) { return 8u * (k >> 1u) + (k & 1u); }
  return 4u * k;
}

// sums of sixteen activations: groups 8 half + 0, 2, 4, 6 of block b, and those between
fn sums_of_16(x: u32, b: u32, half: u32, side: u32) -> vec4<i32> {
  let pairs_of_sums = vec4<i32>(q[x + (a.n_in >> 4u) + 2u * b + half]);
  return (pairs_of_sums << vec4<u32>(16u - 16u * side)) >> vec4<u32>(16u);
}
// sums of 32 activations: groups 2 k and 2 k + 1 of block b
fn sums_of_32(x: u32, b: u32, k: u32) -> vec2<i32> {
  let both = i32(q[x + (a.n_in >> 4u) + (a.n_in >> 7u) + b][k]);
  return vec2<i32>((both << 16u) >> 16u, both >> 16u);
}

// sums over part k of block b: scales times products, and minima times activations
fn product_of(p: Part, x: u32, b: u32, k: u32) -> vec2<i32> {
  let g = x + 16u * b + first_group(k);
  let d = vec4<i32>(dot16(p.w0, q[g]), dot16(p.w1, q[g + GROUP_STEP]),
                    dot16(p.w2, q[g + 2u * GROUP_STEP]), dot16(p.w3, q[g + 3u * GROUP_STEP]));
  if (HAS_SUMS) {
    if (IS_STRIDED) {
      let s = sums_of_16(x, b, k >> 1u, k & 1u);
      return vec2<i32>(dot(p.scale, d - OFFSET * s), dot(p.minimum, s));
    }
    let s = sums_of_32(x, b, k);
    return vec2<i32>(p.scale.x * (d.x + d.y) + p.scale.z * (d.z + d.w),
                     p.minimum.x * s.x + p.minimum.z * s.y);
  }
  if (GROUP == 32u) { return vec2<i32>(p.scale.x * (d.x + d.y) + p.scale.z * (d.z + d.w), 0); }
  return vec2<i32>(dot(p.scale, d), 0);
}
