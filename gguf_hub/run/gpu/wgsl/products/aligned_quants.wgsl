// Rows of quantised activations that begin at multiples of 16 bytes.
@group(0) @binding(3) var<storage, read> q: array<vec4<u32>>;
fn x_word(i: u32) -> u32 { return q[i >> 2u][i & 3u]; }
fn x_vector(i: u32) -> vec4<u32> { return q[i >> 2u]; }
