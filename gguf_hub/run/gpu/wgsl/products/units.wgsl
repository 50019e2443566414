// Units of 32 weights, and activations of kind `q8_0`.

// 32 weights as bytes, each `OFFSET` too large, and what they are multiplied with: d and, if HAS_M,
// the minimum m; or, if HAS_HALVES, the factors of both sixteens
struct Unit { w0: vec4<u32>, w1: vec4<u32>, factors: vec2<f32> };

// where activations of a unit lie: vectors of quants, the scale, the sum
struct Activations { x0: vec4<u32>, x1: vec4<u32>, scale: f32, sum: i32, scaled_sum: f32 };

fn activations_of(place: Place, b: u32) -> Activations {
  let at = place.q / 4u + 8u * b;
  var sum = 0;
  if (OFFSET > 0) { sum = i32(x_word(place.q / 4u + a.n_in / 4u + b)); }
  var scaled_sum = 0.0;
  if (HAS_M) { scaled_sum = f[place.f + a.n_in / 32u + b]; }
  return Activations(x_vector(at), x_vector(at + 4u), f[place.f + b], sum, scaled_sum);
}

fn add_unit(total: f32, unit: Unit, x: Activations) -> f32 {
  let first = dot16(unit.w0, x.x0);
  let second = dot16(unit.w1, x.x1);
  if (HAS_HALVES) {
    return fma(unit.factors.y * x.scale, f32(second),
               fma(unit.factors.x * x.scale, f32(first), total));
  }
  let result = fma(unit.factors.x * x.scale, f32(first + second - OFFSET * x.sum), total);
  if (HAS_M) { return fma(unit.factors.y, x.scaled_sum, result); }
  return result;
}
