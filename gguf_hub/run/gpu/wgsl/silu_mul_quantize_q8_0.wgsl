// include: rows.wgsl
// include: elementary.wgsl
// include: q8_0_blocks.wgsl
// include: activate_and_quantize.wgsl
fn activated(x: f32) -> f32 { return silu32(x); }
