// include: rows.wgsl
// include: elementary.wgsl
// include: q8_k_blocks.wgsl
// include: activate_and_quantize.wgsl
fn activated(gate: f32, up: f32) -> f32 { return gelu32(gate) * up; }
