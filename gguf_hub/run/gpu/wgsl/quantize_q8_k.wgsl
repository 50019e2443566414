// include: rows.wgsl
// include: q8_k_blocks.wgsl
// include: quantize.wgsl
