// 64 rows times 32 pairs, 32 weights at a time: 16 results a thread.

var<workgroup> weights: array<vec4<f32>, 520>;  // [8, ROW_STEP]
var<workgroup> values: array<vec4<f32>, 264>;  // [8, PAIR_STEP]

fn load(job: Job, li: u32, row0: u32, i: u32, n_eights: u32) {
  for (var k = li; k < 4u * ROWS; k += THREADS) {
    let e = k % 4u;
    let r = k / 4u;
    var eight = Eight(vec4<f32>(0.0), vec4<f32>(0.0));
    if (i + e < n_eights) { eight = eight_of(row_of(job.matrix, min(row0 + r, a.n_out - 1u)), i + e); }
    weights[ROW_STEP * (2u * e) + r] = eight.a;
    weights[ROW_STEP * (2u * e + 1u) + r] = eight.b;
  }
  for (var k = li; k < 8u * PAIRS; k += THREADS) {
    values[PAIR_STEP * (k % 8u) + k / 8u] = four_activations(places[k / 8u].f, 8u * i + 4u * (k % 8u));
  }
}

// four weights of pairs x, x + 8 ...
struct Columns { x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32> };

fn columns_of(k: u32, x: u32) -> Columns {
  let i = PAIR_STEP * k + x;
  return Columns(values[i], values[i + 8u], values[i + 16u], values[i + 24u]);
}

fn add_four(total: vec4<f32>, row: u32, k: u32, x: Columns) -> vec4<f32> {
  let weight = weights[ROW_STEP * k + row];
  return total + vec4<f32>(dot(weight, x.x0), dot(weight, x.x1), dot(weight, x.x2),
                           dot(weight, x.x3));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let job = job_of_tile(wg, PAIRS);
  if (is_idle(job)) { return; }
  if (li < PAIRS) { places[li] = place_in(job, li); }
  workgroupBarrier();
  let row0 = ROWS * wg.x;
  let r = li / 8u;
  let x = li % 8u;
  let n_eights = (a.n_in + 7u) / 8u;
  var t0 = vec4<f32>(0.0);
  var t1 = vec4<f32>(0.0);
  var t2 = vec4<f32>(0.0);
  var t3 = vec4<f32>(0.0);
  for (var i = 0u; i < n_eights; i += 4u) {
    load(job, li, row0, i, n_eights);
    workgroupBarrier();
    for (var k = 0u; k < 8u; k++) {
      let columns = columns_of(k, x);
      t0 = add_four(t0, r, k, columns);
      t1 = add_four(t1, r + 16u, k, columns);
      t2 = add_four(t2, r + 32u, k, columns);
      t3 = add_four(t3, r + 48u, k, columns);
    }
    workgroupBarrier();
  }
  store_sixteen(job, row0 + r, x, t0, t1, t2, t3);
}
