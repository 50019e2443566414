// include: rows.wgsl
// include: q8_0_blocks.wgsl
// include: quantize.wgsl
