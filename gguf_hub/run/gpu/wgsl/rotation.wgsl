// Rotates pair `i` of the head at `x` by the angle of its token: cosines at `turn`, then sines.
fn rotate_pair(x: u32, turn: u32, i: u32) {
  let half = a.n_rot / 2u;
  let is_neox = a.is_neox == 1u;
  let first = x + select(2u * i, i, is_neox);
  let second = first + select(1u, half, is_neox);
  let cosine = f[turn + i];
  let sine = f[turn + half + i];
  let before = vec2<f32>(f[first], f[second]);
  f[first] = before.x * cosine - before.y * sine;
  f[second] = before.x * sine + before.y * cosine;
}
