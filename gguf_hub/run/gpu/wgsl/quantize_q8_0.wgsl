// include: rows.wgsl
// include: quants.wgsl
// include: half.wgsl
var<workgroup> tops: array<atomic<u32>, 32>;
var<workgroup> totals: array<atomic<i32>, 32>;

// eight threads a block of 32
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>) {
  let n_block = a.width / 32u;
  let block = 32u * flat(wg, groups.x) + li / 8u;  // of all rows
  let is_live = block < n_block * a.per_row * header(a.count);
  let row = block / n_block;
  let b = block % n_block;
  var x = vec4<f32>(0.0);
  if (is_live) { x = four_at(a.x + 32u * block + 4u * (li % 8u)); }
  if (li < 32u) {
    atomicStore(&tops[li], 0u);
    atomicStore(&totals[li], 0);
  }
  workgroupBarrier();
  atomicMax(&tops[li / 8u], magnitude_bits(x));
  workgroupBarrier();
  let top = atomicLoad(&tops[li / 8u]);
  let scale = scale_of(top);
  let v = quants_of(x, inverse_of(top));
  atomicAdd(&totals[li / 8u], v.x + v.y + v.z + v.w);
  workgroupBarrier();
  if (!is_live) { return; }
  let words = (a.xq + 36u * n_block * row) / 4u;
  q[words + 8u * b + li % 8u] = bytes_of(v);
  if (li % 8u == 0u) {
    let total = atomicLoad(&totals[li / 8u]);
    let half = as_half(scale);
    let floats = a.xf + 2u * n_block * row + b;
    f[floats] = half;
    f[floats + n_block] = half * f32(total);
    q[words + 8u * n_block + b] = bitcast<u32>(total);
  }
}
