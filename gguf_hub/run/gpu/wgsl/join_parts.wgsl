// include: rows.wgsl
// include: elementary.wgsl
// include: parts.wgsl
// One workgroup a (token, head): joins what `attention` has made of the parts of the positions.
@group(0) @binding(7) var<storage, read_write> s: array<f32>;

const THREADS = 128u;
var<workgroup> tops: array<f32, THREADS>;
var<workgroup> totals: array<f32, THREADS>;
var<workgroup> factors: array<f32, N_PARTS>;

@compute @workgroup_size(128)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let row = wg.x;
  let n_parts = parts().y;
  let stride = a.n_head * header(N_TOKENS) * (VALUE_DIM + 2u);
  let state = row * (VALUE_DIM + 2u);
  var sink = -1e30;
  if (a.has_sinks == 1u) { sink = f[a.sinks + row % a.n_head]; }
  var most = sink;
  for (var part = li; part < n_parts; part += THREADS) { most = max(most, s[state + stride * part]); }
  tops[li] = most;
  workgroupBarrier();
  for (var step = THREADS / 2u; step > 0u; step >>= 1u) {
    if (li < step) { tops[li] = max(tops[li], tops[li + step]); }
    workgroupBarrier();
  }
  let top = tops[0];
  var total = 0.0;
  if (li == 0u && a.has_sinks == 1u) { total = exp32(sink - top); }
  for (var part = li; part < N_PARTS; part += THREADS) { factors[part] = 0.0; }
  for (var part = li; part < n_parts; part += THREADS) {
    let factor = exp32(s[state + stride * part] - top);
    factors[part] = factor;
    total += factor * s[state + stride * part + 1u];
  }
  totals[li] = total;
  workgroupBarrier();
  for (var step = THREADS / 2u; step > 0u; step >>= 1u) {
    if (li < step) { totals[li] += totals[li + step]; }
    workgroupBarrier();
  }
  let inverse = 1.0 / totals[0];
  for (var i = li; i < VALUE_DIM; i += THREADS) {
    var sum = 0.0;
    for (var part = 0u; part < n_parts; part += 4u) {
      // four at a time: behind the last part stands itself, times 0
      let each = vec4<u32>(part, part + 1u, part + 2u, part + 3u);
      let at = vec4<u32>(state + 2u + i) + stride * min(each, vec4<u32>(n_parts - 1u));
      let x = vec4<f32>(s[at.x], s[at.y], s[at.z], s[at.w]);
      sum += dot(x, vec4<f32>(factors[each.x], factors[each.y], factors[each.z], factors[each.w]));
    }
    f[a.y + VALUE_DIM * row + i] = sum * inverse;
  }
}
