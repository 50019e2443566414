// Elementary functions by the CPU's own arithmetic (run/kernels/generic/elementary.py): the
// built-in ones differ from driver to driver.
const LOG2_E = 1.44269504;
const LN2_HIGH = 0.693359375;
const LN2_LOW = -2.12194440e-4;

fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }

// e**x, for x within -87.3 .. 88.7; NaN stays NaN
fn exp32(x: f32) -> f32 {
  let bounded = clamp(x, -87.3, 88.7);
  let k = round(bounded * LOG2_E);
  let r = (bounded - k * LN2_HIGH) - k * LN2_LOW;
  var p = 0.000198756915 * r + 0.00139819999;
  p = p * r + 0.00833345209;
  p = p * r + 0.0416657962;
  p = p * r + 0.166665795;
  p = p * r + 0.5;
  let value = p * (r * r) + (r + 1.0);
  let scaled = bitcast<f32>(bitcast<i32>(value) + (i32(k) << 23u));  // times 2**k
  return select(scaled, x, is_nan(x));
}

// e**x - 1: near 0 by its series, which does not cancel
fn expm132(x: f32) -> f32 {
  var p = 1.0 / 5040.0 * x + 1.0 / 720.0;
  p = p * x + 1.0 / 120.0;
  p = p * x + 1.0 / 24.0;
  p = p * x + 1.0 / 6.0;
  p = p * x + 0.5;
  return select(exp32(x) - 1.0, (p * x) * x + x, abs(x) < 0.35);
}

fn exp32x4(x: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(exp32(x.x), exp32(x.y), exp32(x.z), exp32(x.w));
}

fn sigmoid32(x: f32) -> f32 { return select(1.0 / (1.0 + exp32(-x)), 0.0, x < -88.0); }

fn silu32(x: f32) -> f32 { return x / (1.0 + exp32(-x)); }

fn tanh32(x: f32) -> f32 {
  let size = select(abs(x), 10.0, abs(x) > 10.0);
  let far = 1.0 - 2.0 / (exp32(2.0 * size) + 1.0);
  let square = size * size;
  var p = -5.70498872745e-3 * square + 2.06390887954e-2;
  p = p * square - 5.37397155531e-2;
  p = p * square + 1.33314422036e-1;
  p = p * square - 3.33332819422e-1;
  let near = (p * square) * size + size;
  let value = select(far, near, size < 0.625);
  return select(value, -value, x < 0.0);
}

fn gelu32(x: f32) -> f32 {
  let bounded = select(select(x, 10.0, x > 10.0), -20.0, x < -20.0);
  let cubic = 1.0 + 0.044715 * (bounded * bounded);
  return x * sigmoid32((1.5957691216 * bounded) * cubic);
}

// ln(1 + e**x) = max(x, 0) + ln(1 + e), e <= 1, by the series of 2 artanh(e / (2 + e)): a logarithm
// of 1 + e would lose the digits of a small e
fn softplus32(x: f32) -> f32 {
  let e = exp32(-abs(x));
  let z = e / (2.0 + e);
  let square = z * z;
  var p = 1.0 / 15.0;
  p = p * square + 1.0 / 13.0;
  p = p * square + 1.0 / 11.0;
  p = p * square + 1.0 / 9.0;
  p = p * square + 1.0 / 7.0;
  p = p * square + 0.2;
  p = p * square + 1.0 / 3.0;
  p = p * square + 1.0;
  return max(x, 0.0) + 2.0 * z * p;
}

// gpt-oss: gate up to 7, up within -7 .. 7; NaN stays NaN
fn swiglu_oai32(gate: f32, up: f32) -> f32 {
  let x = select(gate, 7.0, gate > 7.0);
  let z = select(select(up, 7.0, up > 7.0), -7.0, up < -7.0);
  return x * sigmoid32(1.702 * x) * (z + 1.0);
}
