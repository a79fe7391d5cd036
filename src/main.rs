//! The `kmsfs` command: parse and run, nothing else.
fn main() {}
