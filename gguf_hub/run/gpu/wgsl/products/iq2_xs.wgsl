// Of each eight weights nine bits of grid, seven signs; behind them the scales.

fn eight_of(block: Block, i: u32) -> vec2<u32> {
  let code = short_of(block, 2u + 2u * i);
  return with_seven_signs(long_grid(code & 511u), code >> 9u);
}
fn scale_of(block: Block, j: u32) -> i32 { return nibble_scale(block, 66u, j); }
fn factor_of(block: Block) -> f32 { return half_of(block, 0u) * 0.125; }
