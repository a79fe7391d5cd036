//! Regular files from one on, depth first, in the order of a reader.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::backing;
use crate::names::Listed;

use super::super::inodes::Inode;
use super::super::{Fs, Result};
use super::order::Order;

/// Bytes of a directory that one call to the backing reads.
const LIST_BUF: usize = 32 * 1024;
/// Directories inside each other that a walk holds open.
const DEPTH: usize = 64;
/// Files that a reader may be ahead of the walk: one that opens others is none that the walk follows.
const LEAD: usize = 64;
/// Entries of a directory beyond which no scan follows it.
const ENTRIES: usize = 1 << 20;

pub struct Entry {
    pub name: Box<[u8]>,
    /// The kernel's number.
    pub id: u64,
    pub kind: FileType,
    /// Empty where the order does not need it.
    pub plain: Box<[u8]>,
}

/// A directory, and what of it is still to be walked.
pub struct Level {
    fd: Arc<OwnedFd>,
    dir: u64,
    /// As listed, sorted by [`Order::sort`]; in a [`Walk`] the next one last.
    pub entries: Vec<Entry>,
}

pub enum Step {
    File(Arc<OwnedFd>, Entry),
    /// Nobody was seen yet to go where the walk would go next.
    Blocked,
    End,
}

pub struct Walk {
    number: u64,
    order: Order,
    /// The innermost directory last.
    levels: Vec<Level>,
    /// The outermost one.
    base: Arc<Inode>,
    /// Whether the reader goes into directories, once that is known.
    deep: Option<bool>,
}

impl Walk {
    /// From what comes behind `file` in `level`, the directory `base`.
    pub fn new(number: u64, mut level: Level, order: Order, base: Arc<Inode>, file: u64) -> Option<Self> {
        order.sort(&mut level);
        level.entries.reverse();
        let mut walk = Self { number, order, levels: vec![level], base, deep: None };
        walk.levels[0].pass(usize::MAX, |entry| entry.id == file).then_some(walk)
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether files of this directory are to come.
    pub fn is_in(&self, dir: u64) -> bool {
        self.levels.iter().any(|level| level.dir == dir)
    }

    /// The reader has opened `file` of `dir` before the walk came there: it goes on behind it. False if it is none of the
    /// next files.
    pub fn pass(&mut self, dir: u64, file: u64) -> bool {
        let Some(at) = self.levels.iter().position(|level| level.dir == dir) else { return false };
        let blocked = self.is_blocked();
        if !self.levels[at].pass(LEAD, |entry| entry.id == file) {
            return false;
        }
        if blocked && at + 1 == self.levels.len() {
            // It did not go into the directory where the walk waited for it.
            self.deep = Some(false);
        }
        self.levels.truncate(at + 1);
        true
    }

    pub fn next(&mut self, fs: &Fs) -> Step {
        loop {
            let depth = self.levels.len();
            let Some(level) = self.levels.last_mut() else { return self.climb(fs) };
            let Some(entry) = level.entries.pop() else {
                self.levels.pop();
                continue;
            };
            match entry.kind {
                FileType::RegularFile | FileType::Unknown => return Step::File(level.fd.clone(), entry),
                FileType::Directory if self.deep != Some(false) && depth < DEPTH => {
                    if self.deep.is_none() && !fs.was_listed(entry.id) {
                        level.entries.push(entry);
                        return Step::Blocked;
                    }
                    self.deep = Some(true);
                    // One that cannot be listed has no files that could be opened.
                    if let Ok(inner) = backing::open_entry(level.fd.as_fd(), &entry.name)
                        && let Ok(mut inner) = fs.level(inner.as_fd(), entry.id, Some(self.order))
                    {
                        self.order.sort(&mut inner);
                        inner.entries.reverse();
                        self.levels.push(inner);
                    }
                }
                _ => {}
            }
        }
    }

    /// The file is still to be walked.
    pub fn put_back(&mut self, file: Entry) {
        if let Some(level) = self.levels.last_mut() {
            level.entries.push(file);
        }
    }

    fn is_blocked(&self) -> bool {
        let next = self.levels.last().and_then(|level| level.entries.last());
        self.deep.is_none() && next.is_some_and(|entry| entry.kind == FileType::Directory)
    }

    /// Goes on behind the outermost directory in the one that it lies in, if that is what the reader goes through.
    fn climb(&mut self, fs: &Fs) -> Step {
        let Some((parent, name)) = self.base.place() else { return Step::End };
        if !fs.was_listed(parent.id) {
            return Step::End;
        }
        let level = parent.fd().and_then(|fd| fs.level(fd.as_fd(), parent.id, Some(self.order)));
        let Ok(mut level) = level else { return Step::End };
        self.order.sort(&mut level);
        level.entries.reverse();
        if !level.pass(usize::MAX, |entry| *entry.name == *name) {
            return Step::End;
        }
        self.levels.push(level);
        self.base = parent;
        self.deep = Some(true);
        self.next(fs)
    }
}

impl Level {
    /// Drops what comes before the entry that is meant, and the entry. False, and nothing dropped, if it is not among the
    /// next `within`.
    fn pass(&mut self, within: usize, meant: impl Fn(&Entry) -> bool) -> bool {
        let from = self.entries.len().saturating_sub(within);
        let Some(at) = self.entries[from..].iter().rposition(meant) else { return false };
        self.entries.truncate(from + at);
        true
    }
}

impl Fs {
    /// What a directory holds, as it is listed; with plaintext names if `order` needs them or is not known yet.
    pub(super) fn level(&self, fd: BorrowedFd<'_>, dir: u64, order: Option<Order>) -> Result<Level> {
        let fd = backing::open_dir(fd)?;
        let named = matches!(order, None | Some(Order::Name));
        let id = if named { self.read_dir_id(fd.as_fd())? } else { None };
        let mut buf = Vec::with_capacity(LIST_BUF);
        let mut entries = Vec::new();
        backing::list_dir(fd.as_fd(), 0, &mut buf, |raw| {
            if matches!(raw.name, b"." | b"..") || self.names().listed(raw.name) == Listed::Own {
                return true;
            }
            let plain = match named {
                true => self.listed_name((dir, fd.as_fd()), id.as_ref(), raw.name).ok().flatten(),
                false => Some(Vec::new()),
            };
            if let Some(plain) = plain {
                let (name, id) = (raw.name.into(), self.inodes.id_of(raw.ino));
                entries.push(Entry { name, id, kind: raw.kind, plain: plain.into() });
            }
            entries.len() < ENTRIES
        })?;
        match entries.len() < ENTRIES {
            true => Ok(Level { fd: fd.into(), dir, entries }),
            false => Err(Errno::TOOBIG.into()),
        }
    }
}
