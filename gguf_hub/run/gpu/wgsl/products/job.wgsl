// What a workgroup multiplies, and where that lies. Files that end in `_job` say how it is found.

@group(0) @binding(0) var<uniform> a: Args;
@group(0) @binding(1) var<storage, read> n: array<i32>;
@group(0) @binding(2) var<storage, read_write> f: array<f32>;

const NONE = 0xffffffffu;

// one matrix times activation rows of `count` pairs, those that `pair_at` has from `begin` on
struct Job { matrix: u32, head: u32, begin: u32, count: u32 };

// where activations of a pair lie in bytes of `q` and in `f`, and its results
struct Place { q: u32, f: u32, y: u32 };

fn place_of(job: Job, pair: u32) -> Place {
  let row = pair / a.pairs_per_x;
  return Place(a.xq + a.xq_step * job.head + a.xq_stride * row,
               a.xf + a.xf_step * job.head + a.xf_stride * row,
               a.y + a.y_step * job.head + a.y_stride * pair);
}

// of pair i of a job, or of its last one
fn place_in(job: Job, i: u32) -> Place {
  return place_of(job, pair_at(job.begin + min(i, job.count - 1u)));
}

fn is_idle(job: Job) -> bool { return job.count == 0u || job.matrix == NONE; }

fn store(y: u32, value: f32) {
  if (a.is_added == 1u) { f[y] += value; } else { f[y] = value; }
}
