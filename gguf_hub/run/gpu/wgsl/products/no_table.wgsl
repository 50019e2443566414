fn prepare(li: u32) {}
