// Sums over the 256 threads of a workgroup, in a tree.
var<workgroup> sums: array<f32, 256>;

fn sum_of_all(li: u32, value: f32) -> f32 {
  workgroupBarrier();  // what was read of the last sum
  sums[li] = value;
  workgroupBarrier();
  for (var step = 128u; step > 0u; step >>= 1u) {
    if (li < step) { sums[li] += sums[li + step]; }
    workgroupBarrier();
  }
  return sums[0];
}
