//! Small tools on files: patterns, and system calls that std does not have.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// `len` bytes that differ by place and by seed, so that no two blocks are alike.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    let mut random = Random(seed ^ 0x5851_f42d_4c95_7f2d);
    while out.len() < len {
        out.extend_from_slice(&random.next().to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A small generator (splitmix64): a test's course follows from its seed alone.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..`end`
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// The errno of a failure, 0 of a success.
pub fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().map_or(0, |e| e.raw_os_error().unwrap_or(-1))
}

pub fn open_rw(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).expect("open for writing")
}

/// The whole file through one descriptor.
pub fn read_all(file: &File) -> Vec<u8> {
    let len = file.metadata().expect("its size").len() as usize;
    let mut out = vec![0; len];
    file.read_exact_at(&mut out, 0).expect("read");
    out
}

pub fn fallocate(file: &File, mode: i32, off: u64, len: u64) -> io::Result<()> {
    // SAFETY: a call without pointers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, off as i64, len as i64) })
}

/// By path, with nobody having it open.
pub fn truncate(path: &Path, len: i64) {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL");
    // SAFETY: a C string that lives through the call.
    check(unsafe { libc::truncate(path.as_ptr(), len) }).expect("truncate");
}

pub fn seek_data(file: &File, off: u64) -> io::Result<u64> {
    seek(file, off, libc::SEEK_DATA)
}

pub fn seek_hole(file: &File, off: u64) -> io::Result<u64> {
    seek(file, off, libc::SEEK_HOLE)
}

fn seek(file: &File, off: u64, whence: i32) -> io::Result<u64> {
    // SAFETY: a call without pointers.
    let at = unsafe { libc::lseek(file.as_raw_fd(), off as i64, whence) };
    if at < 0 { Err(io::Error::last_os_error()) } else { Ok(at as u64) }
}

pub fn copy_file_range(from: &File, off_in: u64, to: &File, off_out: u64, len: usize) -> io::Result<usize> {
    let (mut i, mut o) = (off_in as i64, off_out as i64);
    // SAFETY: two integers that live through the call.
    let n = unsafe { libc::copy_file_range(from.as_raw_fd(), &raw mut i, to.as_raw_fd(), &raw mut o, len, 0) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Asks the kernel to drop what it caches of the file.
pub fn drop_cache(file: &File) {
    file.sync_all().expect("fsync");
    // SAFETY: a call without pointers.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A mapping of a file, unmapped on drop.
pub struct Map {
    at: *mut u8,
    len: usize,
}

impl Map {
    pub fn new(file: &File, len: usize, shared: bool) -> io::Result<Self> {
        let flags = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { at: at.cast(), len }) }
    }

    pub fn sync(&self) {
        // SAFETY: the mapping is this object's.
        assert_eq!(unsafe { libc::msync(self.at.cast(), self.len, libc::MS_SYNC) }, 0, "msync");
    }

    pub fn read(&self, off: usize, len: usize) -> Vec<u8> {
        assert!(off + len <= self.len);
        // SAFETY: inside the mapping, which nobody else changes meanwhile.
        unsafe { std::slice::from_raw_parts(self.at.add(off), len) }.to_vec()
    }

    pub fn write(&mut self, off: usize, data: &[u8]) {
        assert!(off + data.len() <= self.len);
        // SAFETY: inside the mapping; `data` is not.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.at.add(off), data.len()) };
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is this object's and not used after.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// Changes one bit of the byte at `at`.
pub fn flip(path: &Path, at: u64) {
    let file = open_rw(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}
