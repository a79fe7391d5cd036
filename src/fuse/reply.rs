//! The answer to one request, given once: here, or later from another thread.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;
use zerocopy::IntoBytes;

use crate::fs::dirs::Listing;
use crate::fs::{Attr, Entry, FsError, Result};

use super::abi::{self, OutHeader};
use super::convert;
use super::device::Device;
use super::uring;

/// Nobody else changes the backing of an exclusive mount: what the kernel knows stays true.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// Where answers go.
#[derive(Debug)]
pub enum Sink {
    Device(Arc<Device>),
    Uring(uring::Place),
    #[cfg(test)]
    Test(std::sync::mpsc::Sender<Vec<u8>>),
}

/// One request's answer. Dropped without one, it answers EIO: nobody waits for ever.
#[derive(Debug)]
pub struct Reply {
    unique: u64,
    sink: Option<Sink>,
}

impl Reply {
    pub fn new(unique: u64, sink: Sink) -> Self {
        Self { unique, sink: Some(sink) }
    }

    fn send(&mut self, error: i32, parts: &[&[u8]]) {
        let Some(sink) = self.sink.take() else { return };
        let len = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
        let header = OutHeader { len: len as u32, error: -error, unique: self.unique };
        match sink {
            Sink::Device(device) => {
                let mut slices = [IoSlice::new(header.as_bytes()), IoSlice::new(&[]), IoSlice::new(&[])];
                for (slice, part) in slices[1..].iter_mut().zip(parts) {
                    *slice = IoSlice::new(part);
                }
                device.answer(&slices[..=parts.len()]);
            }
            Sink::Uring(place) => place.answer(&header, parts),
            #[cfg(test)]
            Sink::Test(sender) => {
                let _ = sender.send([&[header.as_bytes()], parts].concat().concat());
            }
        }
    }

    /// Memory from which an answer goes to the kernel without a copy, where there is such; only for requests without data
    /// of their own. It holds anything.
    pub fn room(&mut self) -> Option<&mut [u8]> {
        match &mut self.sink {
            Some(Sink::Uring(place)) => Some(place.room()),
            _ => None,
        }
    }

    /// Answers with what was put into [`Self::room`].
    pub fn with_room(mut self, range: Range<usize>) {
        if let Some(Sink::Uring(place)) = self.sink.take() {
            let len = size_of::<OutHeader>() + range.len();
            place.answer_from_room(&OutHeader { len: len as u32, error: 0, unique: self.unique }, range);
        }
    }

    pub fn error(mut self, errno: i32) {
        self.send(errno, &[]);
    }

    pub fn failed(self, e: &FsError) {
        self.error(e.errno());
    }

    pub fn bytes(mut self, bytes: &[u8]) {
        self.send(0, &[bytes]);
    }

    fn value(mut self, value: &(impl IntoBytes + zerocopy::Immutable)) {
        self.send(0, &[value.as_bytes()]);
    }

    /// What `done` says, without a value.
    pub fn empty(mut self, done: Result<()>) {
        match done {
            Ok(()) => self.send(0, &[]),
            Err(e) => self.failed(&e),
        }
    }

    pub fn data(self, data: Result<Vec<u8>>) {
        match data {
            Ok(data) => self.bytes(&data),
            Err(e) => self.failed(&e),
        }
    }

    pub fn entry(self, entry: Result<Entry>) {
        match entry {
            Ok(entry) => self.value(&entry_out(&entry)),
            Err(e) => self.failed(&e),
        }
    }

    pub fn attr(self, attr: Result<Attr>) {
        let whole = |attr| abi::AttrOut { attr_valid: TTL.as_secs(), attr, ..Default::default() };
        match attr {
            Ok(attr) => self.value(&whole(convert::attr(&attr))),
            Err(e) => self.failed(&e),
        }
    }

    pub fn opened(self, handle: Result<u64>, open_flags: u32) {
        match handle {
            Ok(fh) => self.value(&abi::OpenOut { fh, open_flags, backing_id: 0 }),
            Err(e) => self.failed(&e),
        }
    }

    pub fn created(self, made: Result<(Entry, u64)>, open_flags: u32) {
        match made {
            Ok((entry, fh)) => {
                let open = abi::OpenOut { fh, open_flags, backing_id: 0 };
                self.value(&abi::CreateOut { entry: entry_out(&entry), open });
            }
            Err(e) => self.failed(&e),
        }
    }

    pub fn written(self, done: Result<u32>) {
        match done {
            Ok(size) => self.value(&abi::WriteOut { size, padding: 0 }),
            Err(e) => self.failed(&e),
        }
    }

    pub fn offset(self, found: Result<u64>) {
        match found {
            Ok(at) => self.value(&abi::LseekOut { offset: at as i64 }),
            Err(e) => self.failed(&e),
        }
    }

    pub fn statfs(self, found: Result<rustix::fs::StatVfs>) {
        match found {
            Ok(s) => self.value(&abi::StatfsOut {
                blocks: s.f_blocks,
                bfree: s.f_bfree,
                bavail: s.f_bavail,
                files: s.f_files,
                ffree: s.f_ffree,
                bsize: s.f_bsize as u32,
                namelen: s.f_namemax as u32,
                frsize: s.f_frsize as u32,
                ..Default::default()
            }),
            Err(e) => self.failed(&e),
        }
    }

    /// `room` is what the caller has for the value, 0 if it asks for its length.
    pub fn xattr(self, room: u32, value: Result<Vec<u8>>) {
        match value {
            Ok(value) if room == 0 => self.value(&abi::GetxattrOut { size: value.len() as u32, padding: 0 }),
            Ok(value) if value.len() > room as usize => self.error(libc::ERANGE),
            value => self.data(value),
        }
    }

    pub fn listing(self, listed: Result<()>, list: &List) {
        match listed {
            Ok(()) => self.bytes(&list.bytes),
            Err(e) => self.failed(&e),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(libc::EIO, &[]);
    }
}

fn entry_out(entry: &Entry) -> abi::EntryOut {
    abi::EntryOut {
        nodeid: entry.attr.ino,
        generation: entry.generation,
        entry_valid: TTL.as_secs(),
        attr_valid: TTL.as_secs(),
        attr: convert::attr(&entry.attr),
        ..Default::default()
    }
}

/// Entries of a directory, at most as many bytes as the kernel has room for.
#[derive(Debug, Default)]
pub struct List {
    bytes: Vec<u8>,
    room: usize,
}

impl List {
    /// Empty, for `room` bytes; the memory of the last listing is used again.
    pub fn clear(&mut self, room: usize) {
        self.bytes.clear();
        self.room = room;
    }

    /// False if there was room.
    pub fn add(&mut self, listing: &Listing<'_>) -> bool {
        self.push(dirent(listing).as_bytes(), listing.name)
    }

    /// As [`Self::add`], with what the look-up gave. Node 0: a name without a look-up.
    pub fn add_plus(&mut self, listing: &Listing<'_>) -> bool {
        let known =
            listing.entry.as_ref().map_or((listing.ino, listing.kind), |entry| (entry.attr.ino, entry.attr.kind));
        let (ino, kind) = known;
        let entry = listing.entry.as_ref().map(entry_out).unwrap_or_else(|| abi::EntryOut {
            entry_valid: TTL.as_secs(),
            attr_valid: TTL.as_secs(),
            attr: abi::Attr { ino, mode: kind_bits(kind) << 12, nlink: 1, ..Default::default() },
            ..Default::default()
        });
        let dirent = abi::Dirent { ino, kind: kind_bits(kind), ..dirent(listing) };
        self.push(abi::DirentPlus { entry, dirent }.as_bytes(), listing.name)
    }

    fn push(&mut self, head: &[u8], name: &[u8]) -> bool {
        let len = (head.len() + name.len()).next_multiple_of(8);
        if self.bytes.len() + len > self.room {
            return true;
        }
        let end = self.bytes.len() + len;
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        false
    }
}

fn dirent(listing: &Listing<'_>) -> abi::Dirent {
    abi::Dirent {
        ino: listing.ino,
        off: listing.next,
        namelen: listing.name.len() as u32,
        kind: kind_bits(listing.kind),
    }
}

/// `d_type`: 0 where the backing does not tell.
fn kind_bits(kind: FileType) -> u32 {
    if kind == FileType::Unknown { 0 } else { kind.as_raw_mode() >> 12 }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn reply() -> (Reply, Receiver<Vec<u8>>) {
        let (sender, receiver) = channel();
        (Reply::new(0x0102, Sink::Test(sender)), receiver)
    }

    fn header(len: u32, error: i32) -> Vec<u8> {
        [&len.to_ne_bytes()[..], &error.to_ne_bytes(), &0x0102u64.to_ne_bytes()].concat()
    }

    #[test]
    fn one_answer_each() {
        let (one, seen) = reply();
        one.bytes(b"data");
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [[&header(20, 0)[..], b"data"].concat()]);
        let (one, seen) = reply();
        one.error(libc::ENOENT);
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [header(16, -libc::ENOENT)]);
    }

    #[test]
    fn what_is_not_answered_is_an_error() {
        let (one, seen) = reply();
        drop(one);
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [header(16, -libc::EIO)]);
    }

    /// `getxattr(2)`: a length for who asks with none, ERANGE for who has too little room.
    #[test]
    fn values_of_xattrs() {
        let answer = |room, len| {
            let (one, seen) = reply();
            one.xattr(room, Ok(vec![7; len]));
            seen.recv().unwrap()
        };
        assert_eq!(answer(0, 300), [header(24, 0), vec![44, 1, 0, 0, 0, 0, 0, 0]].concat());
        assert_eq!(answer(2, 3), header(16, -libc::ERANGE));
        assert_eq!(answer(3, 3), [header(19, 0), vec![7; 3]].concat());
        assert_eq!(answer(1, 0), header(16, 0));
    }

    #[test]
    fn listings_end_where_the_room_does() {
        let listing = |name: &'static [u8]| Listing { name, ino: 5, kind: FileType::Directory, next: 6, entry: None };
        let mut list = List::default();
        list.clear(64);
        assert!(!list.add(&listing(b"a")));
        assert!(list.add(&listing(b"a name of thirty-three characters")), "no room");
        assert!(!list.add(&listing(b"12345678")));
        assert!(list.add(&listing(b"b")), "full");
        let entry = |name: &[u8]| {
            let head = [&5u64.to_ne_bytes()[..], &6u64.to_ne_bytes(), &(name.len() as u32).to_ne_bytes()].concat();
            [&head[..], &4u32.to_ne_bytes(), name].concat()
        };
        assert_eq!(list.bytes, [entry(b"a"), vec![0; 7], entry(b"12345678")].concat());
        list.clear(32);
        assert!(!list.add(&Listing { kind: FileType::Unknown, ..listing(b"?") }));
        assert_eq!(list.bytes[20..24], [0; 4]);
        list.clear(160);
        assert!(!list.add_plus(&listing(b"x")));
        assert_eq!((list.bytes.len(), &list.bytes[..8]), (160, &[0; 8][..]), "no look-up");
        assert!(list.add_plus(&listing(b"y")));
    }
}
