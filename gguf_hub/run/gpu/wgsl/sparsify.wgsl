// include: rows.wgsl
// include: sums.wgsl
// one workgroup a row, in place
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>) {
  let t = flat(wg, groups.x);
  if (t >= header(a.count)) { return; }
  let row = a.x + a.width * t;
  var total = 0.0;
  for (var i = li; i < a.width; i += 256u) { total += f[row + i]; }
  let mean = sum_of_all(li, total) / f32(a.width);
  var squares = 0.0;
  for (var i = li; i < a.width; i += 256u) {
    let apart = f[row + i] - mean;
    squares += apart * apart;
  }
  let deviation = sqrt(sum_of_all(li, squares) / f32(max(1u, a.width - 1u)));
  let cutoff = mean + f[a.factor] * deviation;
  for (var i = li; i < a.width; i += 256u) { f[row + i] = max(f[row + i] - cutoff, 0.0); }
}
