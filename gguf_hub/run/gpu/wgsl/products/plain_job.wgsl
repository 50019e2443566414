// Tokens with one matrix, or with that of a head, which is the workgroup's z; a pair is a token.

fn job_of(begin: u32, size: u32, head: u32) -> Job {
  let n_tokens = u32(n[a.count]);
  return Job(head, head, begin, min(size, n_tokens - min(begin, n_tokens)));
}
fn job_of_pair(wg: vec3<u32>) -> Job { return job_of(wg.y, 1u, wg.z); }
fn job_of_tile(wg: vec3<u32>, size: u32) -> Job { return job_of(size * wg.y, size, wg.z); }

fn pair_at(i: u32) -> u32 { return i; }
