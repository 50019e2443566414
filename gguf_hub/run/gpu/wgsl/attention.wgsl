// include: rows.wgsl
// include: elementary.wgsl
// include: cache.wgsl
// include: parts.wgsl
// One workgroup some rows of queries that share a key/value head, and a part of the positions; by
// the online softmax (arXiv 1805.02867) over spans of 128. A row is a (token, head of the group).
//
// Constants: FOURS, how many times four rows; SPLIT_TOKENS, up to how many tokens there are parts:
// their sums go to `s`, [part, token, head]: the largest score, the sum of weights, and VALUE_DIM
// numbers. Those of more tokens are results.
@group(0) @binding(7) var<storage, read_write> s: array<f32>;

const LOWEST = -1e30;  // below every score that a model computes
const NO_ROW = 0xffffffffu;
// 64 threads are 4 times 16: a tile of 32 dimensions of a value takes 16; what is left of the
// four takes every other position, or every fourth
const STEPS = select(select(1u, 2u, VALUE_TILES == 2u), 4u, VALUE_TILES == 1u);
const AT_ONCE = 4u / STEPS;
const OWN_TILES = (VALUE_TILES + AT_ONCE - 1u) / AT_ONCE;

const PADDED_DIM = (HEAD_DIM + 7u) / 8u * 8u;

var<workgroup> queries: array<vec4<f32>, PADDED_DIM * FOURS>;
var<workgroup> weights: array<vec4<f32>, SPAN * FOURS>;
var<workgroup> tops: array<vec4<f32>, 64u * FOURS>;
var<workgroup> few_tops: array<vec4<f32>, 8u * FOURS>;

struct Seen { first: vec4<u32>, end: vec4<u32> };

// row of the key/value head's [token, head of the group] -> row of [token, head]
fn row_of(head_kv: u32, row: u32) -> u32 {
  let group = a.n_head / a.n_head_kv;
  if (row >= group * header(N_TOKENS)) { return NO_ROW; }
  return a.n_head * (row / group) + group * head_kv + row % group;
}

fn query(row: u32, i: u32) -> f32 {
  if (row == NO_ROW || i >= HEAD_DIM) { return 0.0; }
  return f[a.q0 + HEAD_DIM * row + i];
}

// positions that four rows see
fn seen_by(rows: vec4<u32>) -> Seen {
  var seen = Seen(vec4<u32>(0xffffffffu), vec4<u32>(0u));
  for (var c = 0u; c < 4u; c++) {
    if (rows[c] != NO_ROW) {
      let position = header(POSITION) + rows[c] / a.n_head;
      seen.first[c] = first_seen(position);
      seen.end[c] = position + 1u;
    }
  }
  return seen;
}

// At two neighbouring positions each, dimensions i to i + 3 of their keys: [position, dimension]. They
// are read before any is used: loads then do not wait for one another. Behind the head's end stands
// its last dimension, which queries of 0 meet.
fn four_keys(block: u32, i: u32, pair: u32) -> mat2x4<f32> {
  let at = min(vec4<u32>(i, i + 1u, i + 2u, i + 3u), vec4<u32>(HEAD_DIM - 1u));
  if (KEY_TYPE == F32) {
    let from_ = vec4<u32>(block + 2u * pair) + 32u * at;
    return mat2x4<f32>(bitcast<vec4<f32>>(four_of_k(from_)),
                       bitcast<vec4<f32>>(four_of_k(from_ + vec4<u32>(1u))));
  }
  if (KEY_TYPE == Q8_0) {
    let from_ = vec4<u32>(block + pair / 2u) + 8u * at;
    return four_pairs(four_of_k(from_), pair & 1u);
  }
  let from_ = vec4<u32>(block + pair) + 16u * at;
  return four_halves(four_of_k(from_));
}

fn key_scales(block: u32, tile: u32, pair: u32) -> vec2<f32> {
  if (KEY_TYPE == Q8_0) { return unpack2x16float(k[block + KEY_QUANT_WORDS + 16u * tile + pair]); }
  return vec2<f32>(1.0);
}

// two neighbouring dimensions of the values at four places: [dimension, place]
fn four_values(tile: u32, places: vec4<u32>, pair: u32) -> mat2x4<f32> {
  if (VALUE_TYPE == F32) {
    let from_ = vec4<u32>(tile + 2u * pair) + 32u * places;
    return mat2x4<f32>(bitcast<vec4<f32>>(four_of_v(from_)),
                       bitcast<vec4<f32>>(four_of_v(from_ + vec4<u32>(1u))));
  }
  if (VALUE_TYPE == Q8_0) {
    let from_ = vec4<u32>(tile + pair / 2u) + 8u * places;
    let quants = four_pairs(four_of_v(from_), pair & 1u);
    let x = four_of_v(vec4<u32>(value_scales(tile)) + places / vec4<u32>(2u));
    let odd = places & vec4<u32>(1u);
    let scales = vec4<f32>(half_of(x.x, odd.x), half_of(x.y, odd.y),
                           half_of(x.z, odd.z), half_of(x.w, odd.w));
    return mat2x4<f32>(quants[0] * scales, quants[1] * scales);
  }
  let from_ = vec4<u32>(tile + pair) + 16u * places;
  return four_halves(four_of_v(from_));
}

fn four_of_k(at: vec4<u32>) -> vec4<u32> {
  return vec4<u32>(k[at.x], k[at.y], k[at.z], k[at.w]);
}

fn four_of_v(at: vec4<u32>) -> vec4<u32> {
  return vec4<u32>(v[at.x], v[at.y], v[at.z], v[at.w]);
}

fn four_halves(words: vec4<u32>) -> mat2x4<f32> {
  return transpose(mat4x2<f32>(unpack2x16float(words.x), unpack2x16float(words.y),
                               unpack2x16float(words.z), unpack2x16float(words.w)));
}

// of each word the two bytes of its first or second half
fn four_pairs(words: vec4<u32>, half: u32) -> mat2x4<f32> {
  let w = words >> vec4<u32>(16u * half);
  return transpose(mat4x2<f32>(two_bytes(w.x), two_bytes(w.y), two_bytes(w.z), two_bytes(w.w)));
}

fn two_bytes(word: u32) -> vec2<f32> {
  return vec2<f32>(signed_byte(word, 0u), signed_byte(word, 1u));
}

// of four rows, four dimensions from element `at` on
fn four_queries(at: u32) -> mat4x4<f32> {
  return mat4x4<f32>(queries[at], queries[at + FOURS], queries[at + 2u * FOURS],
                     queries[at + 3u * FOURS]);
}

// of four rows, the weights of the values at four places
fn four_weights(places: vec4<u32>, u: u32) -> mat4x4<f32> {
  let at = FOURS * places + vec4<u32>(u);
  return mat4x4<f32>(weights[at.x], weights[at.y], weights[at.z], weights[at.w]);
}

// what is taken off the scaled scores of four rows: a slope of the head for each position that a key
// lies before the query (ALiBi, arXiv 2108.12409)
fn taken_off(rows: vec4<u32>, position: u32) -> vec4<f32> {
  var less = vec4<f32>(0.0);
  if (a.has_slopes == 0u) { return less; }
  for (var c = 0u; c < 4u; c++) {
    let distance = header(POSITION) + rows[c] / a.n_head - position;
    if (rows[c] != NO_ROW) { less[c] = f[a.slopes + rows[c] % a.n_head] * f32(distance); }
  }
  return less;
}

fn score_of(x: vec4<f32>, less: vec4<f32>, is_seen: vec4<bool>) -> vec4<f32> {
  var score = x * f[a.scale];
  let cap = f[a.cap];
  if (cap != 0.0) {
    let y = score / cap;
    score = cap * vec4<f32>(tanh32(y.x), tanh32(y.y), tanh32(y.z), tanh32(y.w));
  }
  return select(vec4<f32>(LOWEST), score - less, is_seen);
}

fn is_seen(seen: Seen, position: u32) -> vec4<bool> {
  return (seen.first <= vec4<u32>(position)) & (vec4<u32>(position) < seen.end);
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let head_kv = wg.z;
  let slot = header(SLOT);
  let tokens = header(N_TOKENS);
  let is_split = tokens <= SPLIT_TOKENS;
  var rows: array<vec4<u32>, FOURS> = array<vec4<u32>, FOURS>();
  var seen: array<Seen, FOURS> = array<Seen, FOURS>();
  var top: array<vec4<f32>, FOURS> = array<vec4<f32>, FOURS>();
  var total: array<vec4<f32>, FOURS> = array<vec4<f32>, FOURS>();
  for (var u = 0u; u < FOURS; u++) {
    top[u] = vec4<f32>(LOWEST);
    for (var c = 0u; c < 4u; c++) {
      let row = row_of(head_kv, 4u * (FOURS * wg.x + u) + c);
      rows[u][c] = row;
      if (!is_split && a.has_sinks == 1u && row != NO_ROW) {
        // a sink is a score of its own, whose value is 0
        top[u][c] = f[a.sinks + row % a.n_head];
        if (li == 0u) { total[u][c] = 1.0; }
      }
    }
    seen[u] = seen_by(rows[u]);
  }
  for (var i = li; i < PADDED_DIM; i += 64u) {
    for (var u = 0u; u < FOURS; u++) {
      let each = rows[u];
      queries[FOURS * i + u] =
        vec4<f32>(query(each.x, i), query(each.y, i), query(each.z, i), query(each.w, i));
    }
  }
  workgroupBarrier();

  // what the first and the last of the rows see
  let group = a.n_head / a.n_head_kv;
  let last_row = min(4u * FOURS * (wg.x + 1u), group * tokens) - 1u;
  var begin = first_seen(header(POSITION) + 4u * FOURS * wg.x / group);
  var end = header(POSITION) + last_row / group + 1u;
  if (is_split) {
    let size = parts().x * SPAN;
    let first = first_seen(header(POSITION)) / SPAN * SPAN + size * wg.y;
    begin = max(begin, first);
    end = min(end, first + size);
  }
  let keys = keys_of(slot, head_kv);
  let pair = li % 16u;
  let own_tile = li / 16u / STEPS;
  let own_step = li / 16u % STEPS;
  var sums: array<vec4<f32>, OWN_TILES * FOURS * 2u> = array<vec4<f32>, OWN_TILES * FOURS * 2u>();

  for (var first = begin / SPAN * SPAN; first < end; first += SPAN) {
    // 1) scores of two positions
    let position = first + 2u * li;
    var low: array<vec4<f32>, FOURS> = array<vec4<f32>, FOURS>();
    var high: array<vec4<f32>, FOURS> = array<vec4<f32>, FOURS>();
    if (position + 1u >= begin && position < end) {
      let block = keys + KEY_WORDS * (position % a.n_ctx / 32u);
      for (var tile = 0u; tile < KEY_TILES; tile++) {
        var x: array<vec4<f32>, FOURS> = array<vec4<f32>, FOURS>();
        var y: array<vec4<f32>, FOURS> = array<vec4<f32>, FOURS>();
        for (var i = 32u * tile; i < min(32u * tile + 32u, HEAD_DIM); i += 8u) {
          let first_keys = four_keys(block, i, pair);
          let next_keys = four_keys(block, i + 4u, pair);
          for (var u = 0u; u < FOURS; u++) {
            let near = four_queries(FOURS * i + u);
            let far = four_queries(FOURS * (i + 4u) + u);
            x[u] += near * first_keys[0] + far * next_keys[0];
            y[u] += near * first_keys[1] + far * next_keys[1];
          }
        }
        let scale = key_scales(block, tile, pair);
        for (var u = 0u; u < FOURS; u++) {
          low[u] += x[u] * scale.x;
          high[u] += y[u] * scale.y;
        }
      }
    }
    for (var u = 0u; u < FOURS; u++) {
      low[u] = score_of(low[u], taken_off(rows[u], position), is_seen(seen[u], position));
      high[u] = score_of(high[u], taken_off(rows[u], position + 1u),
                         is_seen(seen[u], position + 1u));
      tops[64u * u + li] = max(low[u], high[u]);
    }
    workgroupBarrier();
    // 2) the largest of each row
    if (li < 8u * FOURS) {
      var most = tops[64u * (li / 8u) + li % 8u];
      for (var j = 1u; j < 8u; j++) { most = max(most, tops[64u * (li / 8u) + li % 8u + 8u * j]); }
      few_tops[li] = most;
    }
    workgroupBarrier();
    // 3) weights, relative to the largest score so far
    for (var u = 0u; u < FOURS; u++) {
      var most = top[u];
      for (var j = 0u; j < 8u; j++) { most = max(most, few_tops[8u * u + j]); }
      let fade = exp32x4(top[u] - most);
      let zero = vec4<f32>(0.0);
      let x = select(zero, exp32x4(low[u] - most), is_seen(seen[u], position));
      let y = select(zero, exp32x4(high[u] - most), is_seen(seen[u], position + 1u));
      weights[FOURS * 2u * li + u] = x;
      weights[FOURS * (2u * li + 1u) + u] = y;
      top[u] = most;
      total[u] = total[u] * fade + x + y;
      for (var j = 0u; j < OWN_TILES; j++) {
        sums[2u * (OWN_TILES * u + j)] *= fade;
        sums[2u * (OWN_TILES * u + j) + 1u] *= fade;
      }
    }
    workgroupBarrier();
    // 4) values, eight at a time: where a row sees none, its weight is 0
    let to = min(first + SPAN, end);
    let first_place = (max(first, begin) - first) / (8u * STEPS) * (8u * STEPS) + own_step;
    let last_place = vec4<u32>(to - first - 1u);
    let offset = first % a.n_ctx;
    for (var j = 0u; j < OWN_TILES; j++) {
      let tile = own_tile + AT_ONCE * j;
      if (tile >= VALUE_TILES) { continue; }
      let values = values_of(slot, head_kv, tile);
      for (var p = first_place; p < to - first; p += 8u * STEPS) {
        let near = vec4<u32>(p, p + STEPS, p + 2u * STEPS, p + 3u * STEPS);
        let far = near + vec4<u32>(4u * STEPS);
        let near_values = four_values(values, offset + min(near, last_place), pair);
        let far_values = four_values(values, offset + min(far, last_place), pair);
        for (var u = 0u; u < FOURS; u++) {
          let at = 2u * (OWN_TILES * u + j);
          let x = four_weights(near, u);
          let y = four_weights(far, u);
          sums[at] += x * near_values[0] + y * far_values[0];
          sums[at + 1u] += x * near_values[1] + y * far_values[1];
        }
      }
    }
    workgroupBarrier();
  }

  // the sums of weights of all threads
  for (var u = 0u; u < FOURS; u++) { tops[64u * u + li] = total[u]; }
  workgroupBarrier();
  for (var step = 32u; step > 0u; step >>= 1u) {
    if (li < step) {
      for (var u = 0u; u < FOURS; u++) { tops[64u * u + li] += tops[64u * u + li + step]; }
    }
    workgroupBarrier();
  }
  if (STEPS > 1u) {  // threads that share a tile
    for (var u = 0u; u < FOURS; u++) {
      weights[64u * 2u * u + li] = sums[2u * OWN_TILES * u];
      weights[64u * (2u * u + 1u) + li] = sums[2u * OWN_TILES * u + 1u];
    }
    workgroupBarrier();
    if (own_step > 0u) { return; }
    for (var u = 0u; u < FOURS; u++) {
      for (var j = 1u; j < STEPS; j++) {
        sums[2u * OWN_TILES * u] += weights[64u * 2u * u + li + 16u * j];
        sums[2u * OWN_TILES * u + 1u] += weights[64u * (2u * u + 1u) + li + 16u * j];
      }
    }
  }
  for (var u = 0u; u < FOURS; u++) {
    for (var c = 0u; c < 4u; c++) {
      let row = rows[u][c];
      if (row == NO_ROW) { continue; }
      let state = (a.n_head * tokens * wg.y + row) * (VALUE_DIM + 2u);
      if (is_split && li == 0u) {
        s[state] = top[u][c];
        s[state + 1u] = tops[64u * u][c];
      }
      for (var j = 0u; j < OWN_TILES; j++) {
        let dim = 32u * (own_tile + AT_ONCE * j) + 2u * pair;
        let x = sums[2u * (OWN_TILES * u + j)][c];
        let y = sums[2u * (OWN_TILES * u + j) + 1u][c];
        if (is_split) {
          if (dim < VALUE_DIM) { s[state + 2u + dim] = x; }
          if (dim + 1u < VALUE_DIM) { s[state + 3u + dim] = y; }
        } else {
          let inverse = 1.0 / tops[64u * u][c];
          if (dim < VALUE_DIM) { f[a.y + VALUE_DIM * row + dim] = x * inverse; }
          if (dim + 1u < VALUE_DIM) { f[a.y + VALUE_DIM * row + dim + 1u] = y * inverse; }
        }
      }
    }
  }
}
