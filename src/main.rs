//! The command line of Hongqiao.
fn main() {}
