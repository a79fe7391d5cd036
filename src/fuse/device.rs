//! `/dev/fuse`: the handshake, requests one `read` each, answers one `writev` each, notifications.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use zerocopy::IntoBytes;

use super::abi::{self, InHeader, InitIn, InitOut, OutHeader, WriteIn, capability, op};
use super::reply::{Reply, Sink};
use super::request::Request;
use super::{Adapter, MAX_BACKGROUND, MAX_WRITE};

/// What the kernel is asked for, beside what it takes for granted; a refusal of one is logged and no reason to do without
/// the others.
const CAPABILITIES: [(u64, &str); 10] = [
    (capability::WRITEBACK_CACHE, "WRITEBACK_CACHE"),
    (capability::PARALLEL_DIROPS, "PARALLEL_DIROPS"),
    (capability::DO_READDIRPLUS, "DO_READDIRPLUS"),
    (capability::READDIRPLUS_AUTO, "READDIRPLUS_AUTO"),
    (capability::ASYNC_DIO, "ASYNC_DIO"),
    (capability::DIRECT_IO_ALLOW_MMAP, "DIRECT_IO_ALLOW_MMAP"),
    (capability::HANDLE_KILLPRIV_V2, "HANDLE_KILLPRIV_V2"),
    (capability::POSIX_ACL, "POSIX_ACL"),
    (capability::CACHE_SYMLINKS, "CACHE_SYMLINKS"),
    // The umask is applied by the backing, which knows of default ACLs.
    (capability::DONT_MASK, "DONT_MASK"),
];
const ALWAYS: u64 = capability::ASYNC_READ | capability::BIG_WRITES | capability::MAX_PAGES | capability::INIT_EXT;

const PAGE: usize = 4096;
/// What lies before the data of a WRITE.
const WRITE_HEAD: usize = size_of::<InHeader>() + size_of::<WriteIn>();

/// One descriptor of a connection with the kernel: an answer goes back the way its request came.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub fn raw(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Another descriptor of the same connection: threads with one each don't share a list of requests under way.
    pub fn another(&self) -> io::Result<Self> {
        let fd = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        /// `FUSE_DEV_IOC_CLONE`, `_IOR(229, 0, uint32_t)`.
        const CLONE: libc::Ioctl = 0x8004_e500;
        let from = self.raw() as u32;
        // SAFETY: this request reads 32 bits from where it is told, which live through the call.
        if unsafe { libc::ioctl(fd.as_raw_fd(), CLONE, &raw const from) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(fd))
    }

    /// The next request; `None` once the file system is unmounted.
    fn receive<'a>(&self, buf: &'a mut Buffer) -> io::Result<Option<&'a [u8]>> {
        loop {
            match rustix::io::read(&self.0, buf.bytes()) {
                Ok(len) => return Ok(Some(&buf.bytes()[..len])),
                // ENOENT: the request was interrupted before it was read.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN | rustix::io::Errno::NOENT) => {}
                Err(rustix::io::Errno::NODEV) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    pub fn answer(&self, slices: &[IoSlice<'_>]) {
        match rustix::io::writev(&self.0, slices) {
            // Nobody waits any more: interrupted, or unmounted.
            Ok(_) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV) => {}
            Err(e) => tracing::error!("the kernel does not take an answer: {e}"),
        }
    }

    /// Makes the kernel write back and drop the pages that it has of an inode.
    pub fn invalidate(&self, ino: u64) -> io::Result<()> {
        // From the first byte to the end.
        let body = abi::InvalInodeOut { ino, off: 0, len: 0 };
        let len = size_of::<OutHeader>() + size_of_val(&body);
        let header = OutHeader { len: len as u32, error: abi::NOTIFY_INVAL_INODE, unique: 0 };
        rustix::io::writev(&self.0, &[IoSlice::new(header.as_bytes()), IoSlice::new(body.as_bytes())])?;
        Ok(())
    }

    /// Answers the kernel's first request. `uring`: requests are to come over io_uring; an error if the kernel does not
    /// offer that.
    pub fn handshake(&self, uring: bool) -> io::Result<()> {
        let mut buf = Buffer::new();
        loop {
            let gone = || io::Error::new(io::ErrorKind::NotConnected, "unmounted before the first request");
            let bytes = self.receive(&mut buf)?.ok_or_else(gone)?;
            let malformed = |_| io::Error::new(io::ErrorKind::InvalidData, "the kernel's first request is not INIT");
            let request = Request::parse(bytes).map_err(malformed)?;
            if request.header.opcode != op::INIT {
                return Err(malformed(super::request::Malformed));
            }
            let init = first_request(&request).map_err(malformed)?;
            let refuse = |what: String| {
                self.send(request.header.unique, libc::EPROTO, &[]);
                Err(io::Error::new(io::ErrorKind::Unsupported, what))
            };
            if init.major > abi::VERSION {
                // It asks again, with this version.
                let answer = InitOut { major: abi::VERSION, minor: abi::MINOR, ..InitOut::default() };
                self.send(request.header.unique, 0, answer.as_bytes());
                continue;
            }
            if init.major < abi::VERSION || init.minor < abi::OLDEST_MINOR {
                return refuse(format!("this kernel's FUSE is too old: version {}.{}", init.major, init.minor));
            }
            let offered = offered(&init);
            if uring && offered & capability::OVER_IO_URING == 0 {
                return refuse(NO_URING.to_owned());
            }
            let flags = wanted(offered, uring);
            let answer = InitOut {
                major: abi::VERSION,
                minor: abi::MINOR,
                max_readahead: init.max_readahead,
                flags: flags as u32,
                max_background: MAX_BACKGROUND,
                congestion_threshold: MAX_BACKGROUND / 4 * 3,
                max_write: MAX_WRITE,
                time_gran: 1,
                max_pages: (MAX_WRITE as usize / rustix::param::page_size()).max(1) as u16,
                flags2: (flags >> 32) as u32,
                ..InitOut::default()
            };
            self.send(request.header.unique, 0, answer.as_bytes());
            return Ok(());
        }
    }

    fn send(&self, unique: u64, errno: i32, body: &[u8]) {
        let header = OutHeader { len: (size_of::<OutHeader>() + body.len()) as u32, error: -errno, unique };
        self.answer(&[IoSlice::new(header.as_bytes()), IoSlice::new(body)]);
    }
}

const NO_URING: &str = "the kernel does not offer FUSE over io_uring: it takes Linux 6.14, and as root \
     echo 1 > /sys/module/fuse/parameters/enable_uring";

/// Kernels before Linux 5.17 send the first 16 bytes alone.
fn first_request(request: &Request<'_>) -> Result<InitIn, super::request::Malformed> {
    const SHORT: usize = 16;
    let mut request = request.clone();
    let mut whole = [0; size_of::<InitIn>()];
    match request.bytes(whole.len()) {
        Ok(bytes) => whole.copy_from_slice(bytes),
        Err(_) => whole[..SHORT].copy_from_slice(request.bytes(SHORT)?),
    }
    Ok(zerocopy::transmute!(whole))
}

fn offered(init: &InitIn) -> u64 {
    let flags = u64::from(init.flags);
    if flags & capability::INIT_EXT == 0 { flags } else { flags | u64::from(init.flags2) << 32 }
}

fn wanted(offered: u64, uring: bool) -> u64 {
    let mut flags = ALWAYS & offered;
    for (flag, name) in CAPABILITIES {
        if offered & flag == 0 {
            tracing::info!("this kernel does not offer FUSE {name}");
        }
        flags |= offered & flag;
    }
    if uring {
        flags |= capability::OVER_IO_URING;
    }
    flags
}

/// Serves until the file system is unmounted.
pub fn serve(adapter: &Adapter, device: Device) -> io::Result<()> {
    let device = Arc::new(device);
    let mut buf = Buffer::new();
    while let Some(bytes) = device.receive(&mut buf)? {
        let Ok(request) = Request::parse(bytes) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's request has no header"));
        };
        let (unique, opcode) = (request.header.unique, request.header.opcode);
        let sink = Sink::Device(device.clone());
        if opcode == op::DESTROY {
            Reply::new(unique, sink).empty(Ok(()));
            return Ok(());
        }
        adapter.handle(request, sink);
    }
    Ok(())
}

/// Memory for one request, with the data of a WRITE at the beginning of a page: a copy between buffers of unlike alignment
/// costs many times more on some machines.
struct Buffer(Vec<u8>);

impl Buffer {
    fn new() -> Self {
        Self(vec![0; MAX_WRITE as usize + 3 * PAGE])
    }

    fn bytes(&mut self) -> &mut [u8] {
        let page = self.0.as_ptr().align_offset(PAGE);
        let start = if page >= WRITE_HEAD { page - WRITE_HEAD } else { page + PAGE - WRITE_HEAD };
        &mut self.0[start..start + WRITE_HEAD + MAX_WRITE as usize + PAGE / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_a_write_begins_a_page() {
        let mut buf = Buffer::new();
        let bytes = buf.bytes();
        assert_eq!((bytes.as_ptr() as usize + WRITE_HEAD) % PAGE, 0);
        // The kernel refuses to read into less.
        assert!(bytes.len() >= WRITE_HEAD + MAX_WRITE as usize);
    }

    /// As Linux 4.2 to 5.16 send it, and as newer ones do.
    #[test]
    fn first_requests_of_older_kernels() {
        let message = |body: &[u8]| {
            let head = [&(40 + body.len() as u32).to_ne_bytes()[..], &op::INIT.to_ne_bytes(), &[0; 32]].concat();
            [&head[..], body].concat()
        };
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
        let read = |bytes: &[u8]| first_request(&Request::parse(bytes).unwrap());
        let init = read(&message(&words(&[7, 31, 131_072, 0x7f]))).unwrap();
        assert_eq!((init.major, init.minor, init.max_readahead, offered(&init)), (7, 31, 131_072, 0x7f));
        let mut long = [0; 16];
        long[..5].copy_from_slice(&[7, 45, 131_072, 1 << 30, 1 << 9]);
        let init = read(&message(&words(&long))).unwrap();
        assert_eq!(offered(&init), capability::INIT_EXT | capability::OVER_IO_URING);
        // Without INIT_EXT what follows is not meant.
        long[3] = 0;
        assert_eq!(offered(&read(&message(&words(&long))).unwrap()), 0);
        assert!(read(&message(&words(&[7, 31, 0]))).is_err());
    }

    #[test]
    fn only_what_is_offered_is_asked_for() {
        assert_eq!(wanted(0, false), 0);
        assert_eq!(wanted(capability::POSIX_ACL, false), capability::POSIX_ACL);
        assert_eq!(wanted(u64::MAX, false) & capability::OVER_IO_URING, 0);
        assert_ne!(wanted(u64::MAX, true) & capability::OVER_IO_URING, 0);
        // Never: splicing, O_TRUNC at open, security contexts and others that the operations do not know.
        let never = 1 << 3 | 1 << 4 | 7 << 7 | 1 << 21 | 1 << 29 | 1 << 32 | 1 << 34 | 1 << 40 | 1 << 42;
        assert_eq!(wanted(u64::MAX, true) & never, 0);
    }
}
