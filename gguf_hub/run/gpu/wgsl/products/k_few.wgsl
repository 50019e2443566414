// Up to four pairs: eight lanes a row, as for one pair.

const THREADS = 64u;
const ROWS = 8u;
var<workgroup> sums: array<vec4<f32>, THREADS>;

struct Integers { products: vec4<i32>, minima: vec4<i32> };

fn add_part(sum: Integers, block: Block, x: vec4<u32>, b: u32, k: u32) -> Integers {
  let p = part_of(block, k);
  let r0 = product_of(p, x.x, b, k);
  let r1 = product_of(p, x.y, b, k);
  let r2 = product_of(p, x.z, b, k);
  let r3 = product_of(p, x.w, b, k);
  return Integers(sum.products + vec4<i32>(r0.x, r1.x, r2.x, r3.x),
                  sum.minima + vec4<i32>(r0.y, r1.y, r2.y, r3.y));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let job = job_of_tile(wg, 4u);
  if (is_idle(job)) { return; }
  prepare(li);
  workgroupBarrier();
  let p0 = place_in(job, 0u);
  let p1 = place_in(job, 1u);
  let p2 = place_in(job, 2u);
  let p3 = place_in(job, 3u);
  let lane = li % 8u;
  let row = ROWS * wg.x + li / 8u;
  let n_blocks = a.n_in / 256u;
  let x = vec4<u32>(p0.q, p1.q, p2.q, p3.q) / 16u;
  var total = vec4<f32>(0.0);
  for (var b = lane; b < n_blocks; b += 8u) {
    let block = block_of(job.matrix, min(row, a.n_out - 1u), b, n_blocks);
    var sum = Integers(vec4<i32>(0), vec4<i32>(0));
    for (var k = 0u; k < 4u; k++) { sum = add_part(sum, block, x, b, k); }
    let x_scale = vec4<f32>(f[p0.f + b], f[p1.f + b], f[p2.f + b], f[p3.f + b]);
    let factors = factors_of(block);
    if (HAS_MINIMA) { total = fma(-factors.y * x_scale, vec4<f32>(sum.minima), total); }
    total = fma(factors.x * x_scale, vec4<f32>(sum.products), total);
  }
  sums[li] = total;
  workgroupBarrier();
  if (lane == 0u && row < a.n_out) {
    var y = vec4<f32>(0.0);
    for (var k = 0u; k < 8u; k++) { y += sums[li + k]; }
    store_few(job, vec4<u32>(p0.y, p1.y, p2.y, p3.y) + row, y);
  }
}
