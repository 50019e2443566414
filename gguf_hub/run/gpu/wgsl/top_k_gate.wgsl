// include: routing.wgsl
// include: elementary.wgsl
// One workgroup a token: its experts and their weights (run/kernels/routing.py). Of a single token
// the pairs are sorted by expert at once; those of several are by `sort_pairs`.
//
// Constants: N_USED experts of a token, N_GROUP groups.
const THREADS = 64u;
const SOFTMAX_OF_CHOSEN = 0u;
const SOFTMAX = 1u;
const SIGMOID = 2u;
const SIGMOID_OF_CHOSEN = 3u;
const LEAST_SUM = 6.103515625e-5;  // the smallest normal half

var<workgroup> reduced: array<f32, THREADS>;
var<workgroup> groups: array<f32, N_GROUP>;
var<workgroup> highest: array<atomic<u32>, N_USED>;  // of each round, see `order_of`
var<workgroup> first: array<atomic<u32>, N_USED>;  // the bits of the first that has it, inverted
var<workgroup> values: array<f32, N_USED>;

fn largest(li: u32, value: f32) -> f32 {
  reduced[li] = value;
  workgroupBarrier();
  for (var step = THREADS / 2u; step > 0u; step >>= 1u) {
    if (li < step) { reduced[li] = max(reduced[li], reduced[li + step]); }
    workgroupBarrier();
  }
  let all = reduced[0];
  workgroupBarrier();
  return all;
}

fn sum_of_all(li: u32, value: f32) -> f32 {
  reduced[li] = value;
  workgroupBarrier();
  for (var step = THREADS / 2u; step > 0u; step >>= 1u) {
    if (li < step) { reduced[li] += reduced[li + step]; }
    workgroupBarrier();
  }
  let all = reduced[0];
  workgroupBarrier();
  return all;
}

fn softmax(li: u32, logits: u32) {
  var top = f[logits];
  for (var e = li; e < a.n_expert; e += THREADS) { top = max(top, f[logits + e]); }
  top = largest(li, top);
  var total = 0.0;
  for (var e = li; e < a.n_expert; e += THREADS) {
    let x = exp32(f[logits + e] - top);
    f[logits + e] = x;
    total += x;
  }
  let inverse = 1.0 / sum_of_all(li, total);
  for (var e = li; e < a.n_expert; e += THREADS) { f[logits + e] *= inverse; }
}

fn choice(logits: u32, e: u32) -> f32 {
  let value = f[logits + e];
  if (a.has_bias == 1u) { return value + f[a.bias + e]; }
  return value;
}

// the sum of the two best choices of a group
fn group_choice(logits: u32, from_: u32, size: u32) -> f32 {
  var best = -3.4028234e38;
  var second = best;
  for (var e = from_; e < from_ + size; e++) {
    let value = choice(logits, e);
    if (value > best) {
      second = best;
      best = value;
    } else if (value > second) {
      second = value;
    }
  }
  return select(best, best + second, size > 1u);
}

// whether a group is among the best; of equal ones the first are
fn is_kept(g: u32) -> bool {
  var better = 0u;
  for (var h = 0u; h < N_GROUP; h++) {
    if (groups[h] > groups[g] || (groups[h] == groups[g] && h < g)) { better++; }
  }
  return better < a.n_group_used;
}

// makes all experts unchoosable but those of the best groups
fn drop_groups(li: u32, logits: u32) {
  let size = a.n_expert / N_GROUP;
  storageBarrier();
  workgroupBarrier();
  for (var g = li; g < N_GROUP; g += THREADS) { groups[g] = group_choice(logits, size * g, size); }
  workgroupBarrier();
  var never = 0xff800000u;  // minus infinity
  for (var e = li; e < a.n_expert; e += THREADS) {
    if (!is_kept(e / size)) { f[logits + e] = bitcast<f32>(never); }
  }
}

// bits that are ordered as floats are, NaN before all, and none is 0
fn order_of(x: f32) -> u32 {
  if (is_nan(x)) { return 1u; }
  if (x == 0.0) { return 0x80000000u; }
  let bits = bitcast<u32>(x);
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

// Chooses the best experts, of equal ones the first. Expert e belongs to thread e % 64.
fn choose(li: u32, logits: u32) {
  var is_taken = 0u;  // a bit for each expert of this thread
  for (var round = li; round < N_USED; round += THREADS) {
    atomicStore(&highest[round], 0u);
    atomicStore(&first[round], 0u);
  }
  workgroupBarrier();
  for (var round = 0u; round < N_USED; round++) {
    var best = 0u;
    var best_order = 0u;
    for (var e = li; e < a.n_expert; e += THREADS) {
      let order = order_of(choice(logits, e));
      if (((is_taken >> (e / THREADS)) & 1u) == 0u && order > best_order) {
        best = e;
        best_order = order;
      }
    }
    atomicMax(&highest[round], best_order);
    workgroupBarrier();
    if (best_order > 0u && best_order == atomicLoad(&highest[round])) {
      atomicMax(&first[round], ~best);
    }
    workgroupBarrier();
    if (best_order > 0u && best == ~atomicLoad(&first[round])) {
      is_taken |= 1u << (best / THREADS);
      values[round] = f[logits + best];
    }
  }
  workgroupBarrier();
}

// the weight of the token's expert `own`
fn weight_of(own: u32) -> f32 {
  var top = values[0];
  for (var b = 1u; b < N_USED; b++) { top = max(top, values[b]); }
  var total = 0.0;
  var weight = 0.0;
  for (var b = 0u; b < N_USED; b++) {
    var value = values[b];
    if (a.function == SOFTMAX_OF_CHOSEN) { value = exp32(value - top); }
    if (a.function == SIGMOID_OF_CHOSEN) { value = sigmoid32(value); }
    total += value;
    if (b == own) { weight = value; }
  }
  if (a.function == SOFTMAX_OF_CHOSEN) {
    weight *= 1.0 / total;
  } else if (a.is_normalized == 1u) {
    weight /= select(total, LEAST_SUM, total < LEAST_SUM);
  }
  return weight * f[a.scale];
}

fn expert(round: u32) -> u32 { return ~atomicLoad(&first[round]); }

// a single token's pairs by expert: they differ
fn sort_one(li: u32) {
  for (var e = li; e <= a.n_expert; e += THREADS) {
    var before = 0;
    for (var b = 0u; b < N_USED; b++) {
      if (expert(b) < e) { before++; }
    }
    n[a.expert_starts + e] = before;
  }
  for (var pair = li; pair < N_USED; pair += THREADS) {
    n[a.assignments + u32(n_before(pair))] = i32(pair);
  }
}

fn n_before(pair: u32) -> u32 {
  var before = 0u;
  for (var b = 0u; b < N_USED; b++) {
    if (expert(b) < expert(pair)) { before++; }
  }
  return before;
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) tokens: vec3<u32>) {
  let logits = a.logits + a.n_expert * wg.x;
  if (a.function == SOFTMAX) {
    softmax(li, logits);
  } else if (a.function == SIGMOID) {
    for (var e = li; e < a.n_expert; e += THREADS) { f[logits + e] = sigmoid32(f[logits + e]); }
  }
  if (N_GROUP > 1u) { drop_groups(li, logits); }
  choose(li, logits);
  for (var own = li; own < N_USED; own += THREADS) {
    n[a.expert_ids + N_USED * wg.x + own] = i32(expert(own));
    f[a.weights + N_USED * wg.x + own] = weight_of(own);
  }
  if (tokens.x == 1u) { sort_one(li); }
}
