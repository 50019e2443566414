// Where the parts of a block lie (see `layouts`): planes of whole elements of `w`.

// block b of a row: its planes begin at `base`; it is number `first` + `lane` of the matrix, and
// element j of a plane of m elements each is at m * `first` + `step` * j + `lane`
struct Block { base: u32, first: u32, lane: u32, step: u32 };

fn block_of(matrix: u32, row: u32, b: u32, n_blocks: u32) -> Block {
  let eight = b & 0xfffffff8u;
  return Block(a.tables + a.size * matrix, row * n_blocks + eight, b - eight,
               min(8u, n_blocks - eight));
}

fn number_of(block: Block) -> u32 { return block.first + block.lane; }

const NIBBLES = vec4<u32>(0x0f0f0f0fu);
const FOUR = vec4<u32>(4u);

fn dot16(x: vec4<u32>, y: vec4<u32>) -> i32 {
  return dot4I8Packed(x.x, y.x) + dot4I8Packed(x.y, y.y) + dot4I8Packed(x.z, y.z)
       + dot4I8Packed(x.w, y.w);
}

// byte k of v as a signed number
fn signed_byte(v: u32, k: u32) -> i32 { return (i32(v) << (24u - 8u * k)) >> 24u; }

// four bits to the lowest of four bytes
fn spread(bits: u32) -> u32 { return ((bits & 15u) * 0x00204081u) & 0x01010101u; }
fn spread16(bits: u32) -> vec4<u32> {
  return vec4<u32>(spread(bits), spread(bits >> 4u), spread(bits >> 8u), spread(bits >> 12u));
}

// bytes of 0 ... 127 less a smaller number than 128 in each
fn less(bytes: u32, fours: u32) -> u32 {
  return ((bytes | 0x80808080u) - fours) ^ 0x80808080u;
}
