// Rows of quantised activations that begin at any word: those of 32 or 96 values, say.
@group(0) @binding(3) var<storage, read> q: array<u32>;
fn x_word(i: u32) -> u32 { return q[i]; }
fn x_vector(i: u32) -> vec4<u32> { return vec4<u32>(q[i], q[i + 1u], q[i + 2u], q[i + 3u]); }
