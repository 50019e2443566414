// include: routing.wgsl
// One workgroup: where each expert's pairs begin, and the pairs by expert, those of one in order
// (an example is in run/kernels/routing.py). Constant: N_EXPERT.
const THREADS = 256u;
const NONE = 0xffffffffu;

var<workgroup> counts: array<atomic<u32>, N_EXPERT>;  // of pairs; then where the next one goes
var<workgroup> ids: array<vec4<u32>, 64>;  // of the experts of 256 pairs

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32) {
  let n_pairs = u32(n[a.count]) * a.n_expert_used;
  for (var e = li; e < N_EXPERT; e += THREADS) { atomicStore(&counts[e], 0u); }
  workgroupBarrier();
  for (var p = li; p < n_pairs; p += THREADS) { atomicAdd(&counts[n[a.expert_ids + p]], 1u); }
  workgroupBarrier();
  if (li == 0u) {
    var start = 0u;
    for (var e = 0u; e < N_EXPERT; e++) {
      let size = atomicExchange(&counts[e], start);
      n[a.expert_starts + e] = i32(start);
      start += size;
    }
    n[a.expert_starts + N_EXPERT] = i32(start);
  }
  workgroupBarrier();
  for (var begin = 0u; begin < n_pairs; begin += THREADS) {
    let p = begin + li;
    var e = NONE;
    if (p < n_pairs) { e = u32(n[a.expert_ids + p]); }
    ids[li / 4u][li % 4u] = e;
    workgroupBarrier();
    var before = 0u;  // of this expert's pairs
    for (var j = 0u; j < li / 4u; j++) {
      let same = select(vec4<u32>(0u), vec4<u32>(1u), ids[j] == vec4<u32>(e));
      before += same.x + same.y + same.z + same.w;
    }
    for (var j = 0u; j < li % 4u; j++) {
      if (ids[li / 4u][j] == e) { before++; }
    }
    if (p < n_pairs) { n[a.assignments + atomicLoad(&counts[e]) + before] = i32(p); }
    workgroupBarrier();
    if (p < n_pairs) { atomicAdd(&counts[e], 1u); }
    workgroupBarrier();
  }
}
