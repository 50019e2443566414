// results of a row and pairs x, x + 8 ... of the tile
fn store_four(job: Job, row: u32, x: u32, value: vec4<f32>) {
  if (row >= a.n_out) { return; }
  if (x < job.count) { store(places[x].y + row, value.x); }
  if (x + 8u < job.count) { store(places[x + 8u].y + row, value.y); }
  if (x + 16u < job.count) { store(places[x + 16u].y + row, value.z); }
  if (x + 24u < job.count) { store(places[x + 24u].y + row, value.w); }
}
