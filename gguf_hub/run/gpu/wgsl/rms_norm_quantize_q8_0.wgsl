// include: norm.wgsl
// include: q8_0_blocks.wgsl
// include: norm_and_quantize.wgsl
