//! The descriptors of inodes: as many as the system allows, the least used given up when there are too many.

use std::collections::VecDeque;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::backing;

use super::inodes::Inode;

/// Inodes looked at when one gets a descriptor too many, at most.
const LOOKS: usize = 64;

/// Counts the descriptors that inodes hold, and chooses who gives one up (second chance: whoever was used since the
/// last look keeps it).
#[derive(Debug)]
pub struct Descriptors {
    held: AtomicUsize,
    most: usize,
    /// Inodes in the order in which they got a descriptor or were spared. Some are gone, or hold none any more.
    queue: Mutex<VecDeque<Weak<Inode>>>,
    /// Some inode has, or had at some time, no descriptor.
    given_up: AtomicBool,
}

impl Descriptors {
    /// Half of what the process may have: the others are for open files and directories.
    pub fn new() -> Self {
        Self::with_most(backing::descriptor_limit() / 2)
    }

    pub fn with_most(most: usize) -> Self {
        Self {
            held: AtomicUsize::new(0),
            most: most.max(LOOKS),
            queue: Mutex::default(),
            given_up: AtomicBool::new(false),
        }
    }

    /// An inode got a descriptor; others may lose theirs. No lock of an inode or a table may be held.
    pub fn gained(&self, inode: Weak<Inode>) {
        let held = self.held.fetch_add(1, Ordering::Relaxed) + 1;
        let mut queue = self.queue.lock();
        if queue.len() > 2 * held + 1024 {
            queue.retain(|inode| inode.strong_count() > 0);
        }
        queue.push_back(inode);
        // Where a whole round of second chances did not bring the number down, there are none.
        let at_once = held > self.most + self.most / 4;
        for _ in 0..LOOKS {
            if self.held.load(Ordering::Relaxed) <= self.most {
                return;
            }
            let Some(candidate) = queue.pop_front() else { return };
            let Some(inode) = candidate.upgrade() else { continue };
            match inode.give_up(at_once) {
                GaveUp::Yes => self.does_without(),
                GaveUp::Spared => queue.push_back(candidate),
                GaveUp::HadNone => {}
            }
        }
    }

    /// An inode begins without a descriptor.
    pub fn does_without(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub fn lost(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether every inode in the table holds its descriptor.
    pub fn all_held(&self) -> bool {
        !self.given_up.load(Ordering::Relaxed)
    }
}

/// What an inode did that was asked to give its descriptor up.
#[derive(Debug, PartialEq, Eq)]
pub enum GaveUp {
    Yes,
    /// It is in use, was used lately, or could not be found again.
    Spared,
    HadNone,
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use super::super::inodes::Inodes;
    use super::*;

    /// A table of many more inodes than descriptors: none is lost, each is opened again where it was found.
    #[test]
    fn inodes_that_gave_their_descriptor_up_are_opened_again() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let root = backing::open_root(dir.path()).expect("opens");
        let descriptors = Arc::new(Descriptors::with_most(64));
        let inodes = Inodes::with_descriptors(root, descriptors.clone()).expect("a table");
        let root = inodes.find(super::super::ROOT).expect("the root is always there");
        let mut all = Vec::new();
        for i in 0..2000 {
            let name = format!("file-{i}").into_bytes();
            std::fs::write(dir.path().join(format!("file-{i}")), []).expect("writes");
            let dir_fd = root.fd().expect("the root keeps its descriptor");
            let fd = backing::open_entry(dir_fd.as_fd(), &name).expect("opens");
            let stat = backing::stat(fd.as_fd()).expect("stats");
            all.push((inodes.look_up(&root, &name, Some(fd), &stat).expect("looks up"), stat.st_ino));
            assert!(descriptors.held.load(Ordering::Relaxed) <= 64 + 16 + 1, "too many are held");
        }
        for (inode, ino) in &all {
            assert_eq!(inode.stat().expect("opens again").st_ino, *ino);
        }
        assert!(descriptors.held.load(Ordering::Relaxed) <= 64 + 16 + 1);
        // One that is gone is stale, and not another file that has its place.
        std::fs::remove_file(dir.path().join("file-0")).expect("removes");
        std::fs::write(dir.path().join("file-0"), []).expect("writes");
        assert!(all[0].0.stat().is_err() || all[0].0.stat().is_ok_and(|stat| stat.st_ino == all[0].1));
    }
}
