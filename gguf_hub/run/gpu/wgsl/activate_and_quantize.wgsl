@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>) {
  let e = 4u * (256u * flat(wg, groups.x) + li);
  let is_live = e < a.width * a.per_row * header(a.count);
  var x = vec4<f32>(0.0);
  if (is_live) {
    let g = four_at(a.gate + e);
    let u = four_at(a.up + e);
    x = vec4<f32>(activated(g.x, u.x), activated(g.y, u.y), activated(g.z, u.z),
                  activated(g.w, u.w));
    put_four(a.gate + e, x);
  }
  quantize_four(li, e, is_live, x);
}
