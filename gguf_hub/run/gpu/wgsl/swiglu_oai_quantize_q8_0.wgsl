// include: rows.wgsl
// include: elementary.wgsl
// include: q8_0_blocks.wgsl
// include: activate_and_quantize.wgsl
fn activated(gate: f32, up: f32) -> f32 { return swiglu_oai32(gate, up); }
