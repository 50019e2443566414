@group(0) @binding(0) var<uniform> a: Args;
@group(0) @binding(1) var<storage, read_write> n: array<i32>;

// tokens, position and slot of the header, for the steps that follow
@compute @workgroup_size(1)
fn main() {
  n[0] = n[a.at];
  n[1] = n[a.at + 1u];
  n[5] = n[a.at + 2u];
}
