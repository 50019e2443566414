// include: rows.wgsl
// include: rotation.wgsl
// include: half.wgsl
// include: cache.wgsl
// One workgroup a head of queries, of keys or of values, and four places of the cache that share
// words: it alone writes these. Place p of the cache is position p modulo its length; a place whose
// token is not of this call keeps what lies there.
const NONE = 0xffffffffu;
var<workgroup> scales: array<vec4<f32>, max(KEY_TILES, VALUE_TILES)>;

// which token of the call comes to a place, if any
fn token_at(place: u32) -> u32 {
  let t = (place + a.n_ctx - header(POSITION) % a.n_ctx) % a.n_ctx;
  return select(NONE, t, t < header(N_TOKENS));
}

fn tokens_from(place: u32) -> vec4<u32> {
  return vec4<u32>(token_at(place), token_at(place + 1u), token_at(place + 2u), token_at(place + 3u));
}

fn rotate_heads(li: u32, x: u32, stride: u32, tokens: vec4<u32>) {
  for (var r = 0u; r < 4u; r++) {
    if (tokens[r] == NONE) { continue; }
    for (var i = li; i < a.n_rot / 2u; i += 64u) {
      rotate_pair(x + stride * tokens[r], a.table + a.n_rot * tokens[r], i);
    }
  }
}

// element i of the rows of four tokens
fn row_values(x: u32, stride: u32, tokens: vec4<u32>, i: u32) -> vec4<f32> {
  var values = vec4<f32>(0.0);
  for (var r = 0u; r < 4u; r++) {
    if (tokens[r] != NONE) { values[r] = f[x + stride * tokens[r] + i]; }
  }
  return values;
}

fn two_halves(x: vec2<f32>) -> u32 { return half_bits(x.x) | (half_bits(x.y) << 16u); }

fn half_mask(tokens: vec2<u32>) -> u32 {
  return select(0u, 0xffffu, tokens.x != NONE) | select(0u, 0xffff0000u, tokens.y != NONE);
}

// a scale of each tile of 32 dimensions and each token: the largest magnitude over 127
fn find_scales(li: u32, x: u32, stride: u32, tokens: vec4<u32>, n_dims: u32) {
  for (var tile = li; tile < (n_dims + 31u) / 32u; tile += 64u) {
    var top = vec4<f32>(0.0);
    for (var i = 32u * tile; i < min(32u * tile + 32u, n_dims); i++) {
      top = max(top, abs(row_values(x, stride, tokens, i)));
    }
    scales[tile] = top / 127.0;
  }
}

// Numbers as quants. A divisor of 0 is not used.
fn bytes_of(values: vec4<f32>, scale: vec4<f32>) -> vec4<u32> {
  let inverse = select(vec4<f32>(0.0), 1.0 / scale, scale > vec4<f32>(0.0));
  return bitcast<vec4<u32>>(vec4<i32>(round(values * inverse))) & vec4<u32>(255u);
}

fn put_k(at: u32, word: u32, mask: u32) {
  if (mask == 0u) { return; }
  if (mask == 0xffffffffu) { k[at] = word; return; }
  k[at] = (k[at] & ~mask) | (word & mask);
}

fn put_v(at: u32, word: u32, mask: u32) {
  if (mask == 0u) { return; }
  if (mask == 0xffffffffu) { v[at] = word; return; }
  v[at] = (v[at] & ~mask) | (word & mask);
}

fn store_keys(li: u32, head: u32, place: u32, x: u32, stride: u32, tokens: vec4<u32>) {
  let block = keys_of(header(SLOT), head) + KEY_WORDS * (place / 32u);
  let low = half_mask(tokens.xy);
  let high = half_mask(tokens.zw);
  let pair = place % 32u / 2u;
  for (var i = li; i < HEAD_DIM; i += 64u) {
    let values = row_values(x, stride, tokens, i);
    if (KEY_TYPE == F32) {
      let words = bitcast<vec4<u32>>(values);
      for (var r = 0u; r < 4u; r++) {
        if (tokens[r] != NONE) { k[block + 32u * i + place % 32u + r] = words[r]; }
      }
    } else if (KEY_TYPE == Q8_0) {
      let b = bytes_of(values, scales[i / 32u]);
      let all = select(vec4<u32>(255u), vec4<u32>(0u), tokens == vec4<u32>(NONE));
      put_k(block + 8u * i + place % 32u / 4u,
            b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u),
            all.x | (all.y << 8u) | (all.z << 16u) | (all.w << 24u));
    } else {
      put_k(block + 16u * i + pair, two_halves(values.xy), low);
      put_k(block + 16u * i + pair + 1u, two_halves(values.zw), high);
    }
  }
  if (KEY_TYPE == Q8_0) {
    for (var tile = li; tile < KEY_TILES; tile += 64u) {
      let at = block + KEY_QUANT_WORDS + 16u * tile + pair;
      put_k(at, two_halves(scales[tile].xy), low);
      put_k(at + 1u, two_halves(scales[tile].zw), high);
    }
  }
}

// four neighbouring dimensions of a token's values: words are its own
fn store_value(slot: u32, head: u32, place: u32, row: u32, i: u32, scale: f32) {
  let tile = values_of(slot, head, i / 32u);
  var x = vec4<f32>(0.0);
  var is_there = vec4<bool>(false);
  for (var j = 0u; j < 4u; j++) {
    if (i + j < VALUE_DIM) { x[j] = f[row + i + j]; is_there[j] = true; }
  }
  if (VALUE_TYPE == F32) {
    let words = bitcast<vec4<u32>>(x);
    for (var j = 0u; j < 4u; j++) {
      if (is_there[j]) { v[tile + 32u * place + i % 32u + j] = words[j]; }
    }
    return;
  }
  if (VALUE_TYPE == Q8_0) {
    let b = bytes_of(x, vec4<f32>(scale));
    let all = select(vec4<u32>(0u), vec4<u32>(255u), is_there);
    put_v(tile + 8u * place + i % 32u / 4u,
          b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u),
          all.x | (all.y << 8u) | (all.z << 16u) | (all.w << 24u));
    return;
  }
  let at = tile + 16u * place + i % 32u / 2u;
  let all = select(vec4<u32>(NONE), vec4<u32>(0u), is_there);  // as tokens that are there or not
  put_v(at, two_halves(x.xy), half_mask(all.xy));
  put_v(at + 1u, two_halves(x.zw), half_mask(all.zw));
}

fn store_values(li: u32, head: u32, place: u32, x: u32, stride: u32, tokens: vec4<u32>) {
  let slot = header(SLOT);
  let n_words = (VALUE_DIM + 3u) / 4u;
  for (var item = li; item < 4u * n_words; item += 64u) {
    let r = item / n_words;
    let i = 4u * (item % n_words);
    if (tokens[r] != NONE) {
      store_value(slot, head, place + r, x + stride * tokens[r], i, scales[i / 32u][r]);
    }
  }
  if (VALUE_TYPE == Q8_0) {
    for (var tile = li; tile < VALUE_TILES; tile += 64u) {
      let at = value_scales(values_of(slot, head, tile)) + place / 2u;
      put_v(at, two_halves(scales[tile].xy), half_mask(tokens.xy));
      put_v(at + 1u, two_halves(scales[tile].zw), half_mask(tokens.zw));
    }
  }
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let place = 4u * ((header(POSITION) % a.n_ctx / 4u + wg.y) % (a.n_ctx / 4u));
  let tokens = tokens_from(place);
  if (wg.x < a.n_head) {
    rotate_heads(li, a.q0 + HEAD_DIM * wg.x, HEAD_DIM * a.n_head, tokens);
    return;
  }
  if (wg.x < a.n_head + a.n_head_kv) {
    let head = wg.x - a.n_head;
    let x = a.k0 + HEAD_DIM * head;
    let stride = HEAD_DIM * a.n_head_kv;
    rotate_heads(li, x, stride, tokens);
    storageBarrier();
    if (KEY_TYPE == Q8_0) {
      find_scales(li, x, stride, tokens, HEAD_DIM);
    }
    workgroupBarrier();
    store_keys(li, head, place, x, stride, tokens);
    return;
  }
  let head = wg.x - a.n_head - a.n_head_kv;
  let x = a.v0 + VALUE_DIM * head;
  let stride = VALUE_DIM * a.n_head_kv;
  if (VALUE_TYPE == Q8_0) {
    find_scales(li, x, stride, tokens, VALUE_DIM);
  }
  workgroupBarrier();
  store_values(li, head, place, x, stride, tokens);
}
