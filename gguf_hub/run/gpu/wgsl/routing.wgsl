// What the routing of experts sees; it writes indices, too.
@group(0) @binding(0) var<uniform> a: Args;
@group(0) @binding(1) var<storage, read_write> n: array<i32>;
@group(0) @binding(2) var<storage, read_write> f: array<f32>;
