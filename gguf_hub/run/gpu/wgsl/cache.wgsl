// How keys and values lie in the cache (gguf/memory/cache.py), in words: two elements each.
//
// Constants of a kernel: HEAD_DIM and VALUE_DIM, the lengths of heads; KEYS_Q8_0 and VALUES_Q8_0.
@group(0) @binding(4) var<storage, read_write> k: array<u32>;
@group(0) @binding(5) var<storage, read_write> v: array<u32>;

const KEY_TILES = (HEAD_DIM + 31u) / 32u;
const VALUE_TILES = (VALUE_DIM + 31u) / 32u;
// of 32 positions' keys; their quants come first, then [tile, position] scales
const KEY_QUANT_WORDS = 8u * HEAD_DIM;
const KEY_WORDS = select(16u * HEAD_DIM, KEY_QUANT_WORDS + 16u * KEY_TILES, KEYS_Q8_0);

// word where a head's keys begin
fn keys_of(slot: u32, head: u32) -> u32 {
  return a.k_slot / 2u * slot + a.n_ctx / 32u * KEY_WORDS * head;
}

// word where a tile of 32 dimensions of a head's values begins: [position, dimension]
fn values_of(slot: u32, head: u32, tile: u32) -> u32 {
  let size = select(16u * a.n_ctx, 8u * a.n_ctx + a.n_ctx / 2u, VALUES_Q8_0);
  return a.v_slot / 2u * slot + size * (VALUE_TILES * head + tile);
}

// of a tile of values: quants, then a scale of each position
fn value_scales(tile: u32) -> u32 { return tile + 8u * a.n_ctx; }

fn signed_byte(word: u32, i: u32) -> f32 { return f32(bitcast<i32>(word << (24u - 8u * i)) >> 24u); }

fn half_of(word: u32, i: u32) -> f32 {
  let both = unpack2x16float(word);
  return select(both.x, both.y, i == 1u);
}
