// Sixteen weights, the bytes of TABLE, by index: both of a byte at once, low half first.
var<workgroup> pairs: array<u32, 256>;

fn weight_of(nibble: u32) -> u32 { return (TABLE[nibble >> 2u] >> (8u * (nibble & 3u))) & 255u; }

fn prepare(li: u32) {
  for (var i = li; i < 256u; i += THREADS) {
    pairs[i] = weight_of(i & 15u) | (weight_of(i >> 4u) << 8u);
  }
}

// the weights of the low halves of four bytes, and those of the high ones
fn weights_of(v: u32) -> vec2<u32> {
  let even = pairs[v & 255u] | (pairs[(v >> 16u) & 255u] << 16u);
  let odd = pairs[(v >> 8u) & 255u] | (pairs[v >> 24u] << 16u);
  return vec2<u32>((even & 0x00ff00ffu) | ((odd & 0x00ff00ffu) << 8u),
                   ((even >> 8u) & 0x00ff00ffu) | (odd & 0xff00ff00u));
}

struct Halves { low: vec4<u32>, high: vec4<u32> };
fn halves_of(v: vec4<u32>) -> Halves {
  let x = weights_of(v.x);
  let y = weights_of(v.y);
  let z = weights_of(v.z);
  let u = weights_of(v.w);
  return Halves(vec4<u32>(x.x, y.x, z.x, u.x), vec4<u32>(x.y, y.y, z.y, u.y));
}
