// What steps on rows of floats see. `count` is an index of the header: how many rows.
@group(0) @binding(0) var<uniform> a: Args;
@group(0) @binding(1) var<storage, read> n: array<i32>;
@group(0) @binding(2) var<storage, read_write> f: array<f32>;

const N_TOKENS = 0u;
const POSITION = 1u;
const SLOT = 5u;

fn header(i: u32) -> u32 { return u32(n[i]); }

// The number of this thread or workgroup: those that a grid has no room for in x go on in y.
fn flat(id: vec3<u32>, size: u32) -> u32 { return id.x + size * id.y; }
