// include: rows.wgsl
// include: elementary.wgsl
// Scans of a head's state, [rows, head_dim], token after token. A workgroup has 16 columns of it; of
// each a thread keeps every 16th row in registers, from the call's first token to its last. What a
// token sums up over rows is joined in `shares`, of which two sets take turns: a barrier a token.
//
// Constant: OWN_ROWS, how many rows a thread keeps.
const COLUMNS = 16u;
const SLICES = 16u;
const SHARES = COLUMNS * SLICES;

var<workgroup> shares: array<vec4<f32>, 2u * SHARES>;

struct Place {
  head: u32,
  column: u32,
  slice: u32,  // rows slice, slice + 16, slice + 32, ...
  is_live: bool,
};

fn place_of(li: u32, wg: u32) -> Place {
  let n_blocks = (a.head_dim + COLUMNS - 1u) / COLUMNS;
  let column = COLUMNS * (wg % n_blocks) + li % COLUMNS;
  return Place(wg / n_blocks, column, li / COLUMNS, column < a.head_dim);
}

// what all threads of a column have summed up for token t
fn sum_of_column(li: u32, t: u32, share: vec4<f32>) -> vec4<f32> {
  let first = SHARES * (t & 1u);
  shares[first + li] = share;
  workgroupBarrier();
  var total = vec4<f32>(0.0);
  for (var j = 0u; j < SLICES; j++) { total += shares[first + COLUMNS * j + li % COLUMNS]; }
  return total;
}

// element of `f` where a row of the column lies, of a state of `n_rows`
fn state_at(place: Place, n_rows: u32, row: u32) -> u32 {
  return a.state + a.state_stride * header(SLOT) + a.head_dim * (n_rows * place.head + row)
    + place.column;
}

// Before position 0 a state is zero, whatever lies there.
fn read_state(place: Place, n_rows: u32) -> array<f32, OWN_ROWS> {
  var state: array<f32, OWN_ROWS> = array<f32, OWN_ROWS>();
  for (var j = 0u; j < OWN_ROWS; j++) {
    let row = place.slice + SLICES * j;
    if (place.is_live && row < n_rows && header(POSITION) > 0u) {
      state[j] = f[state_at(place, n_rows, row)];
    }
  }
  return state;
}

fn write_state(place: Place, n_rows: u32, state: array<f32, OWN_ROWS>) {
  var values: array<f32, OWN_ROWS> = state;
  for (var j = 0u; j < OWN_ROWS; j++) {
    let row = place.slice + SLICES * j;
    if (place.is_live && row < n_rows) { f[state_at(place, n_rows, row)] = values[j]; }
  }
}

// the elements at `first` that meet a thread's rows; 0 behind their end
fn own_elements(place: Place, n_rows: u32, first: u32) -> array<f32, OWN_ROWS> {
  var own: array<f32, OWN_ROWS> = array<f32, OWN_ROWS>();
  for (var j = 0u; j < OWN_ROWS; j++) {
    let row = place.slice + SLICES * j;
    own[j] = select(0.0, f[first + min(row, n_rows - 1u)], row < n_rows);
  }
  return own;
}
