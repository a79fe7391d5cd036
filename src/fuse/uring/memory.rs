//! The memory that the kernel writes requests to and reads answers from.

use std::io;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::IntoBytes;

use crate::fuse::MAX_WRITE;
use crate::fuse::abi::{InHeader, OutHeader, WriteIn};

const PAGE: usize = 4096;

/// `struct fuse_uring_req_header`.
#[repr(C)]
pub(super) struct Headers {
    /// `fuse_in_header`, then `fuse_out_header`.
    in_out: [u8; 128],
    /// The first argument of the request.
    op_in: [u8; 128],
    flags: u64,
    pub commit_id: u64,
    pub payload_len: u32,
    padding: u32,
    reserved: u64,
}

/// Memory for one request at a time: a page with [`Headers`] and [`Memory::PARTS`] at its beginning and the request's head
/// at its end, then the payload. So a request lies in one piece, and the data of a WRITE begins a page.
pub(super) struct Memory {
    map: NonNull<u8>,
}

// SAFETY: memory of its own; who may touch it when is said at `Place` and `Lane`.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub const PAYLOAD: usize = MAX_WRITE as usize;
    /// Where the page says to the kernel what is where.
    const PARTS: usize = 1024;

    pub fn new() -> io::Result<Self> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping, which replaces none.
        let map = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), PAGE + Self::PAYLOAD, prot, flags) }?;
        Ok(Self { map: NonNull::new(map.cast()).expect("a mapping is not at 0") })
    }

    pub fn headers(&self) -> *mut Headers {
        self.map.as_ptr().cast()
    }

    /// Headers and payload, as REGISTER takes them: it may read them at any time until it is done.
    pub fn parts(&self) -> *const [libc::iovec; 2] {
        let parts = [
            libc::iovec { iov_base: self.headers().cast(), iov_len: size_of::<Headers>() },
            libc::iovec { iov_base: self.payload().cast(), iov_len: Self::PAYLOAD },
        ];
        // SAFETY: within the first page, which is aligned for it, and behind the headers.
        unsafe {
            let place = self.map.as_ptr().add(Self::PARTS).cast::<[libc::iovec; 2]>();
            place.write(parts);
            place
        }
    }

    pub fn payload(&self) -> *mut u8 {
        // SAFETY: the mapping has the payload behind its first page.
        unsafe { self.map.as_ptr().add(PAGE) }
    }

    /// Puts the request together.
    ///
    /// # Safety
    /// The kernel has handed the place over, and it was not answered yet; the request is not used after it was.
    pub unsafe fn request(&self) -> &[u8] {
        const HEAD: usize = size_of::<InHeader>();
        let (headers, payload) = (self.headers(), self.payload());
        // SAFETY: within the first page, by the sizes of its parts; the lengths are bounded below.
        unsafe {
            let len = (&raw const (*headers).in_out).cast::<u32>().read() as usize;
            let payload_len = ((*headers).payload_len as usize).min(Self::PAYLOAD);
            let op_len = len.saturating_sub(HEAD + payload_len).min(128);
            let start = payload.sub(op_len + HEAD);
            std::ptr::copy_nonoverlapping((&raw const (*headers).in_out).cast(), start, HEAD);
            std::ptr::copy_nonoverlapping((&raw const (*headers).op_in).cast(), start.add(HEAD), op_len);
            std::slice::from_raw_parts(start, HEAD + op_len + payload_len)
        }
    }

    /// Number of the request, and how much data it reads or writes, if it does.
    ///
    /// # Safety
    /// As for [`Self::request`].
    pub unsafe fn opcode_and_size(&self) -> (u32, u32) {
        let headers = self.headers();
        // SAFETY: within the headers, of which all bytes are valid for these types.
        unsafe {
            let opcode = (&raw const (*headers).in_out).cast::<u32>().add(1).read();
            // `ReadIn` has it in the same place.
            let size =
                (&raw const (*headers).op_in).cast::<u8>().add(std::mem::offset_of!(WriteIn, size)).cast::<u32>();
            (opcode, size.read())
        }
    }

    /// Puts an answer where the kernel will find it.
    ///
    /// # Safety
    /// As for [`Self::request`], and nobody else answers.
    pub unsafe fn answer(&self, header: &OutHeader, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let (mut header, mut parts) = (*header, parts);
        if len > Self::PAYLOAD {
            // Nothing asks for so much.
            (header.error, parts) = (-libc::EIO, &[]);
        }
        let headers = self.headers();
        let mut at = 0;
        // SAFETY: the payload has room for all parts.
        unsafe {
            for part in parts {
                std::ptr::copy_nonoverlapping(part.as_ptr(), self.payload().add(at), part.len());
                at += part.len();
            }
            let bytes = header.as_bytes();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut (*headers).in_out).cast(), bytes.len());
            (*headers).payload_len = at as u32;
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; a lane keeps its places for ever.
        let _ = unsafe { rustix::mm::munmap(self.map.as_ptr().cast(), PAGE + Self::PAYLOAD) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::is_heavy;
    use super::*;
    use crate::fuse::abi::{ReadIn, op};
    use crate::fuse::request::Request;

    #[test]
    fn sizes_of_the_kernel() {
        assert_eq!(size_of::<Headers>(), 288);
        assert_eq!(std::mem::offset_of!(ReadIn, size), std::mem::offset_of!(WriteIn, size));
    }

    /// As the kernel lays a WRITE out: header, first argument and data apart.
    #[test]
    fn a_request_is_put_together() {
        let memory = Memory::new().unwrap();
        let headers = memory.headers();
        // SAFETY: memory of this test's own.
        unsafe {
            let head = &mut (*headers).in_out;
            head[..4].copy_from_slice(&(40u32 + 40 + 5).to_ne_bytes());
            head[4..8].copy_from_slice(&op::WRITE.to_ne_bytes());
            let args = &mut (*headers).op_in;
            args[16..20].copy_from_slice(&5u32.to_ne_bytes());
            (*headers).payload_len = 5;
            std::ptr::copy_nonoverlapping(b"bytes".as_ptr(), memory.payload(), 5);
            let mut request = Request::parse(memory.request()).unwrap();
            let args: WriteIn = request.take().unwrap();
            let data = request.bytes(args.size as usize).unwrap();
            assert_eq!(data, b"bytes");
            assert_eq!(data.as_ptr() as usize % PAGE, 0);
            assert!(!is_heavy(&memory));
            memory.answer(&OutHeader { len: 24, error: 0, unique: 9 }, &[b"an", b"swer"]);
            assert_eq!((*headers).payload_len, 6);
            assert_eq!(std::slice::from_raw_parts(memory.payload(), 6), b"answer");
            assert_eq!(&(&(*headers).in_out)[8..16], &9u64.to_ne_bytes());
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_is_an_error() {
        let memory = Memory::new().unwrap();
        let long = vec![0; Memory::PAYLOAD + 1];
        // SAFETY: memory of this test's own.
        unsafe {
            memory.answer(&OutHeader { len: 0, error: 0, unique: 1 }, &[&long]);
            assert_eq!((*memory.headers()).payload_len, 0);
            assert_eq!(&(&(*memory.headers()).in_out)[4..8], &(-libc::EIO).to_ne_bytes());
        }
    }
}
