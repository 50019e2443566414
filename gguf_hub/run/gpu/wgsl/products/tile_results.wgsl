// A tile of 64 rows times 32 pairs, 16 results a thread.

const THREADS = 128u;
const ROWS = 64u;
const PAIRS = 32u;
// one more than there are: threads that store what belongs to one row, or pair, meet other banks
const ROW_STEP = 65u;
const PAIR_STEP = 33u;
var<workgroup> places: array<Place, PAIRS>;

// results of a row and pairs x, x + 8 ... of the tile
fn store_four(job: Job, row: u32, x: u32, value: vec4<f32>) {
  if (row >= a.n_out) { return; }
  if (x < job.count) { store(places[x].y + row, value.x); }
  if (x + 8u < job.count) { store(places[x + 8u].y + row, value.y); }
  if (x + 16u < job.count) { store(places[x + 16u].y + row, value.z); }
  if (x + 24u < job.count) { store(places[x + 24u].y + row, value.w); }
}

// those of rows row, row + 16 ...
fn store_sixteen(job: Job, row: u32, x: u32, t0: vec4<f32>, t1: vec4<f32>, t2: vec4<f32>,
                 t3: vec4<f32>) {
  store_four(job, row, x, t0);
  store_four(job, row + 16u, x, t1);
  store_four(job, row + 32u, x, t2);
  store_four(job, row + 48u, x, t3);
}
