// One pair: eight lanes a row. Lane l adds blocks l, l + 8 ... one after another, as the CPU does.

const THREADS = 64u;
const ROWS = 8u;
var<workgroup> sums: array<f32, THREADS>;

// sums of scales times products, and of minima times activations
fn product_of(block: Block, x: u32, b: u32, k: u32) -> vec2<i32> {
  let p = part_of(block, k);
  let g = x + 16u * b + first_group(k);
  let d = vec4<i32>(dot16(p.w0, q[g]), dot16(p.w1, q[g + GROUP_STEP]),
                    dot16(p.w2, q[g + 2u * GROUP_STEP]), dot16(p.w3, q[g + 3u * GROUP_STEP]));
  if (HAS_SUMS) {
    if (IS_STRIDED) {
      let s = sums_of_16(x, b, k >> 1u, k & 1u);
      return vec2<i32>(dot(p.scale, d - OFFSET * s), dot(p.minimum, s));
    }
    let s = sums_of_32(x, b, k);
    return vec2<i32>(p.scale.x * (d.x + d.y) + p.scale.z * (d.z + d.w),
                     p.minimum.x * s.x + p.minimum.z * s.y);
  }
  return vec2<i32>(dot(p.scale, d), 0);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>) {
  let job = job_of_pair(wg);
  if (is_idle(job)) { return; }
  prepare(li);
  workgroupBarrier();
  let place = place_of(job, pair_at(job.begin));
  let lane = li % 8u;
  let row = ROWS * wg.x + li / 8u;
  let n_blocks = a.n_in / 256u;
  let x = place.q / 16u;
  var total = 0.0;
  for (var b = lane; b < n_blocks; b += 8u) {
    let block = block_of(job.matrix, min(row, a.n_out - 1u), b, n_blocks);
    let p = product_of(block, x, b, 0u) + product_of(block, x, b, 1u)
          + product_of(block, x, b, 2u) + product_of(block, x, b, 3u);
    let factors = factors_of(block) * f[place.f + b];
    if (HAS_MINIMA) { total = fma(-factors.y, f32(p.y), total); }
    total = fma(factors.x, f32(p.x), total);
  }
  sums[li] = total;
  workgroupBarrier();
  if (lane == 0u && row < a.n_out) {
    var y = 0.0;
    for (var k = 0u; k < 8u; k++) { y += sums[li + k]; }
    store(place.y + row, y);
  }
}
