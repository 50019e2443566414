// Weights and activations that are floats, eight at a time.
@group(0) @binding(6) var<storage, read> w: array<vec4<u32>>;

struct Eight { a: vec4<f32>, b: vec4<f32> };

fn row_of(matrix: u32, row: u32) -> u32 { return a.size * matrix + a.p1 * row; }

// past the end of a row, where weights are zeros, there may be anything
fn activation(x: u32, i: u32) -> f32 { return select(0.0, f[x + min(i, a.n_in - 1u)], i < a.n_in); }
fn four_activations(x: u32, i: u32) -> vec4<f32> {
  if (i + 4u <= a.n_in) { return vec4<f32>(f[x + i], f[x + i + 1u], f[x + i + 2u], f[x + i + 3u]); }
  return vec4<f32>(activation(x, i), activation(x, i + 1u), activation(x, i + 2u), activation(x, i + 3u));
}
