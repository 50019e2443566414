// include: norm.wgsl
// include: q8_k_blocks.wgsl
// include: norm_and_quantize.wgsl
