// include: rows.wgsl
// include: sums.wgsl
// One workgroup a row; y may be x. The mean is corrected by that of what is left without it: where
// it is far from 0, a sum of floats alone would lose the digits that matter.
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>) {
  let t = flat(wg, groups.x);
  if (t >= header(a.count)) { return; }
  let row = a.x + a.width * t;
  let out = a.y + a.width * t;
  var total = 0.0;
  for (var i = li; i < a.width; i += 256u) { total += f[row + i]; }
  let near = sum_of_all(li, total) / f32(a.width);
  var rest = 0.0;
  for (var i = li; i < a.width; i += 256u) { rest += f[row + i] - near; }
  let mean = near + sum_of_all(li, rest) / f32(a.width);
  var squares = 0.0;
  for (var i = li; i < a.width; i += 256u) { squares += (f[row + i] - mean) * (f[row + i] - mean); }
  let factor = 1.0 / sqrt(sum_of_all(li, squares) / f32(a.width) + f[a.epsilon]);
  for (var i = li; i < a.width; i += 256u) {
    f[out + i] = (f[row + i] - mean) * factor * f[a.gain + i] + f[a.bias + i];
  }
}
