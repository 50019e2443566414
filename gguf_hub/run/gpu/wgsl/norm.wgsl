// include: rows.wgsl
// include: sums.wgsl
// A thread takes four elements at a time, 256 apart: their loads do not wait for one another.
fn places(i: u32) -> vec4<u32> { return vec4<u32>(i, i + 256u, i + 512u, i + 768u); }

// the elements at places of the row at `first`; 0 behind its end
fn elements(first: u32, at: vec4<u32>) -> vec4<f32> {
  let from_ = vec4<u32>(first) + min(at, vec4<u32>(a.width - 1u));
  let x = vec4<f32>(f[from_.x], f[from_.y], f[from_.z], f[from_.w]);
  return select(vec4<f32>(0.0), x, at < vec4<u32>(a.width));
}

fn put_elements(first: u32, at: vec4<u32>, x: vec4<f32>) {
  if (at.x < a.width) { f[first + at.x] = x.x; }
  if (at.y < a.width) { f[first + at.y] = x.y; }
  if (at.z < a.width) { f[first + at.z] = x.z; }
  if (at.w < a.width) { f[first + at.w] = x.w; }
}

// The factor that norms the row at `first`: 1 / sqrt(sum of squares / parts + epsilon).
fn norm_factor(li: u32, first: u32, parts: u32) -> f32 {
  var total = 0.0;
  for (var i = li; i < a.width; i += 1024u) {
    let x = elements(first, places(i));
    total += dot(x, x);
  }
  return 1.0 / sqrt(sum_of_all(li, total) / f32(parts) + f[a.epsilon]);
}
