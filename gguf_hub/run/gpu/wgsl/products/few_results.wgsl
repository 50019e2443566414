// results of up to four pairs of a job
fn store_few(job: Job, y: vec4<u32>, value: vec4<f32>) {
  store(y.x, value.x);
  if (job.count > 1u) { store(y.y, value.y); }
  if (job.count > 2u) { store(y.z, value.z); }
  if (job.count > 3u) { store(y.w, value.w); }
}
