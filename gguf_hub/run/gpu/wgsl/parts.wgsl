// How the positions that the tokens of a call see are cut into parts, each of which a workgroup
// attends to (run/gpu/attention.py says the same).
const SPAN = 128u;  // positions whose scores are computed at once

// the first position that a query at `position` sees
fn first_seen(position: u32) -> u32 {
  var first = 0u;
  if (a.window > 0u && position >= a.window) { first = position - a.window + 1u; }
  if (a.chunk > 0u) { first = max(first, position / a.chunk * a.chunk); }
  return first;
}

// spans of a part, and parts
fn parts() -> vec2<u32> {
  let tokens = header(N_TOKENS);
  let begin = first_seen(header(POSITION)) / SPAN;
  let n_spans = (header(POSITION) + tokens + SPAN - 1u) / SPAN - begin;
  let most = max(1u, N_PARTS / tokens);
  let size = (n_spans + most - 1u) / most;
  return vec2<u32>(size, (n_spans + size - 1u) / size);
}
