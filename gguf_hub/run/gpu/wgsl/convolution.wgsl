// include: rows.wgsl
// The state is the last taps - 1 inputs, [taps - 1, channels], oldest first; before position 0 it is
// zero, whatever lies there.

// where the state of the call's slot begins
fn past() -> u32 { return a.state + a.state_stride * header(SLOT); }

// input `at` of a channel: before the call's first one those of the state
fn input_at(c: u32, at: i32) -> f32 {
  if (at >= 0) { return f[a.x + a.stride * u32(at) + c]; }
  if (header(POSITION) == 0u) { return 0.0; }
  return f[past() + a.width * u32(i32(a.n_taps) - 1 + at) + c];
}

// The inputs of a channel that the next call begins with. A row is overwritten after it was moved.
fn keep_inputs(c: u32) {
  let n_past = i32(a.n_taps) - 1;
  for (var j = 0; j < n_past; j++) {
    f[past() + a.width * u32(j) + c] = input_at(c, i32(header(N_TOKENS)) - n_past + j);
  }
}
