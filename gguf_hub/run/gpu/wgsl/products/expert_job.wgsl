// (token, expert) pairs, sorted by expert: those from `start_of(e)` on are of expert e.

fn start_of(e: u32) -> u32 { return u32(n[a.expert_starts + e]); }
fn pair_at(i: u32) -> u32 { return u32(n[a.assignments + i]); }

// The table counts the matrices of this type from 1; of these some are in this buffer.
fn matrix_of(e: u32) -> u32 {
  let matrix = u32(n[a.experts + e]) - 1u - a.first_matrix;
  return select(NONE, matrix, matrix < a.n_matrices);
}

// The last expert whose tiles begin at `tile` or before. Those of expert e begin at
// start_of(e) / size + e: that leaves room for a tile that is not full, and needs no sums.
fn expert_of(tile: u32, size: u32, spare: u32) -> u32 {
  var low = 0u;
  var high = a.n_expert;
  while (high - low > 1u) {
    let middle = (low + high) / 2u;
    if (start_of(middle) / size + spare * middle <= tile) { low = middle; } else { high = middle; }
  }
  return low;
}

fn job_of_pair(wg: vec3<u32>) -> Job {
  if (wg.y >= start_of(a.n_expert)) { return Job(NONE, 0u, 0u, 0u); }
  return Job(matrix_of(expert_of(wg.y, 1u, 0u)), 0u, wg.y, 1u);
}

fn job_of_tile(wg: vec3<u32>, size: u32) -> Job {
  let e = expert_of(wg.y, size, 1u);
  let end = start_of(e + 1u);
  let begin = min(end, start_of(e) + size * (wg.y - start_of(e) / size - e));
  return Job(matrix_of(e), 0u, begin, min(size, end - begin));
}
