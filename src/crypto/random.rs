//! Randomness, from the operating system alone: a pool in the process would repeat itself in a cloned machine.

/// Fills `out` from `getrandom(2)`, which never fails on Linux 3.17 and later once the system is up.
pub fn fill(out: &mut [u8]) {
    let mut filled = 0;
    while filled < out.len() {
        match rustix::rand::getrandom(&mut out[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("the system gives no random numbers: {e}"),
        }
    }
}

/// `N` random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    fill(&mut out);
    out
}
