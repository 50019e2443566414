// How keys and values lie in the cache (gguf/memory/cache.py), in words: two elements each, a
// number of F32.
//
// Constants of a kernel: HEAD_DIM and VALUE_DIM, the lengths of heads; KEY_TYPE and VALUE_TYPE, one of
// F32, F16 and Q8_0.
@group(0) @binding(4) var<storage, read_write> k: array<u32>;
@group(0) @binding(5) var<storage, read_write> v: array<u32>;

// as CACHE_TYPES counts them
const F32 = 0u;
const F16 = 1u;
const Q8_0 = 2u;

const KEY_TILES = (HEAD_DIM + 31u) / 32u;
const VALUE_TILES = (VALUE_DIM + 31u) / 32u;
// of 32 positions' keys; their quants come first, then [tile, position] scales
const KEY_QUANT_WORDS = 8u * HEAD_DIM;
const KEY_WORDS = select(select(16u * HEAD_DIM, KEY_QUANT_WORDS + 16u * KEY_TILES, KEY_TYPE == Q8_0),
                         32u * HEAD_DIM, KEY_TYPE == F32);

// word where a head's keys begin
fn keys_of(slot: u32, head: u32) -> u32 {
  return a.k_slot / 2u * slot + a.n_ctx / 32u * KEY_WORDS * head;
}

// word where a tile of 32 dimensions of a head's values begins: [position, dimension]
fn values_of(slot: u32, head: u32, tile: u32) -> u32 {
  let size = select(select(16u * a.n_ctx, 8u * a.n_ctx + a.n_ctx / 2u, VALUE_TYPE == Q8_0),
                    32u * a.n_ctx, VALUE_TYPE == F32);
  return a.v_slot / 2u * slot + size * (VALUE_TILES * head + tile);
}

// of a tile of values: quants, then a scale of each position
fn value_scales(tile: u32) -> u32 { return tile + 8u * a.n_ctx; }

fn signed_byte(word: u32, i: u32) -> f32 { return f32(bitcast<i32>(word << (24u - 8u * i)) >> 24u); }

fn half_of(word: u32, i: u32) -> f32 {
  let both = unpack2x16float(word);
  return select(both.x, both.y, i == 1u);
}
