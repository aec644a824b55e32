//! The daemon `aios-runtime`.

fn main() {}
