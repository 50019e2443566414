// include: norm.wgsl
// One workgroup a part of a row; y may be x. The mean is corrected by that of what is left without it: where
// it is far from 0, a sum of floats alone would lose the digits that matter.
const ONES = vec4<f32>(1.0);

// elements of a row less its mean; 0 behind its end
fn less(row: u32, at: vec4<u32>, mean: f32) -> vec4<f32> {
  return select(vec4<f32>(0.0), elements(row, at) - mean, at < vec4<u32>(a.width));
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>) {
  let t = flat(wg, groups.x);
  if (t >= a.per_row * header(a.count)) { return; }
  let row = a.x + a.width * t;
  let out = a.y + a.width * t;
  let own = a.step * (t % a.per_row);
  var total = 0.0;
  for (var i = li; i < a.width; i += 1024u) { total += dot(elements(row, places(i)), ONES); }
  let near = sum_of_all(li, total) / f32(a.width);
  var rest = 0.0;
  for (var i = li; i < a.width; i += 1024u) { rest += dot(less(row, places(i), near), ONES); }
  let mean = near + sum_of_all(li, rest) / f32(a.width);
  var squares = 0.0;
  for (var i = li; i < a.width; i += 1024u) {
    let x = less(row, places(i), mean);
    squares += dot(x, x);
  }
  let factor = 1.0 / sqrt(sum_of_all(li, squares) / f32(a.width) + f[a.epsilon]);
  for (var i = li; i < a.width; i += 1024u) {
    let at = places(i);
    let normed = less(row, at, mean) * factor * elements(a.gain + own, at);
    put_elements(out, at, normed + elements(a.bias + own, at));
  }
}
