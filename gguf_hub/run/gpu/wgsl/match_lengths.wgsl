// include: rows.wgsl
// include: sums.wgsl
// one workgroup a row, in place
fn square_of(li: u32, row: u32) -> f32 {
  var total = 0.0;
  for (var i = li; i < a.width; i += 256u) { total += f[row + i] * f[row + i]; }
  return sum_of_all(li, total);
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>) {
  let t = flat(wg, groups.x);
  if (t >= header(a.count)) { return; }
  let row = a.y + a.width * t;
  let factor = sqrt(square_of(li, a.x + a.width * t)) / sqrt(square_of(li, row));
  for (var i = li; i < a.width; i += 256u) { f[row + i] *= factor; }
}
