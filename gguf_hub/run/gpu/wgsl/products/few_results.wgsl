// up to four pairs of a job: the last one stands for those that are not there
struct FourPlaces { p0: Place, p1: Place, p2: Place, p3: Place };

fn four_places(job: Job) -> FourPlaces {
  return FourPlaces(place_in(job, 0u), place_in(job, 1u), place_in(job, 2u), place_in(job, 3u));
}

fn store_few(job: Job, places: FourPlaces, row: u32, value: vec4<f32>) {
  store(places.p0.y + row, value.x);
  if (job.count > 1u) { store(places.p1.y + row, value.y); }
  if (job.count > 2u) { store(places.p2.y + row, value.z); }
  if (job.count > 3u) { store(places.p3.y + row, value.w); }
}
