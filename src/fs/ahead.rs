//! Keys ahead of a reader that goes through a directory or a tree.
//!
//! A file whose key is not in memory costs a call to the KMS. Who opens one file after another would wait for each. So an
//! open that misses its key, next to another one in the same directory, begins a *scan*: a [`Walk`] in the order in which
//! the files were opened, which reads the headers of the next files and asks for their keys. It stays a *window* of files
//! ahead of the reader: few at first, twice as many each time the reader has come half-way, none beyond
//! [`WINDOW_MAX`]. So what is asked for in vain, when the reader stops, is bounded. A reader who opens files here and there
//! begins no scan. The walk goes into another directory where the reader was seen to list it, or to have gone from one
//! into another before.
//!
//! Opens only tell what they see ([`Fs::opened`], a short lock); the work is done by who calls [`Fs::look_ahead`].

mod order;
mod walk;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::backing;
use crate::content::{Inspected, inspect};
use crate::keys::Prefetch;

use super::Fs;
use super::inodes::Inode;
use super::open_files::usable_wrappings;

use order::Order;
use walk::{Step, Walk};

/// Files ahead of the reader, at first and at most.
const WINDOW: u64 = 8;
const WINDOW_MAX: u64 = 128;
/// Scans at a time: those that read in parallel.
const SCANS: usize = 4;
/// Opens and listings that are remembered.
const RECENT: usize = 64;
/// Opens of the same directory that its order is judged by.
const BEFORE: usize = 8;
/// A scan ends when its reader has opened nothing of it for so long.
const IDLE: Duration = Duration::from_secs(5);
/// When the KMS has enough to do: tried again after this long.
const HELD: Duration = Duration::from_millis(4);

/// What was opened lately, and the scans that were seen in it.
pub struct Ahead {
    on: bool,
    seen: Mutex<Seen>,
    /// By the number of their scan; locked before `seen`.
    walks: Mutex<Vec<Walk>>,
    wake: Notify,
}

#[derive(Default)]
struct Seen {
    /// Directory and file, the newest last.
    opened: VecDeque<(u64, u64)>,
    /// Directories, the newest last.
    listed: VecDeque<u64>,
    missed: Vec<Missed>,
    scans: Vec<Scan>,
    last_scan: u64,
}

/// An open that began or mends a scan.
struct Missed {
    dir: Arc<Inode>,
    file: u64,
    /// Files of the same directory that were opened before it, the newest first; at least one.
    before: Vec<u64>,
}

/// How far a walk is ahead of its reader.
struct Scan {
    number: u64,
    /// The files ahead of the reader, numbered in the order of the walk.
    ahead: HashMap<u64, u64>,
    walked: u64,
    /// The last that the reader has opened.
    reached: u64,
    window: u64,
    last: Instant,
    /// Nothing is left to walk.
    ended: bool,
}

impl Ahead {
    /// `on`: else no key is fetched before its file is opened.
    pub fn new(on: bool) -> Self {
        Self { on, seen: Mutex::default(), walks: Mutex::default(), wake: Notify::new() }
    }
}

impl Seen {
    /// A file was opened. True if there is something to do.
    fn opened(&mut self, inode: &Inode, missed: bool) -> bool {
        let of_scan = self.scans.iter_mut().find_map(|scan| scan.reach(inode.id));
        let Some(dir) = inode.parent() else { return false };
        let mut wanted = of_scan.unwrap_or(false);
        if missed && of_scan.is_none() && self.missed.len() < SCANS {
            let same = self.opened.iter().rev().filter(|(d, file)| *d == dir.id && *file != inode.id);
            let before: Vec<u64> = same.map(|(_, file)| *file).take(BEFORE).collect();
            if !before.is_empty() {
                self.missed.push(Missed { dir: dir.clone(), file: inode.id, before });
                wanted = true;
            }
        }
        remember(&mut self.opened, (dir.id, inode.id));
        wanted
    }

    fn scan(&mut self, number: u64) -> Option<&mut Scan> {
        self.scans.iter_mut().find(|scan| scan.number == number)
    }
}

impl Scan {
    /// None if the file is not of this scan; else whether the walk may go on.
    fn reach(&mut self, file: u64) -> Option<bool> {
        let at = self.ahead.remove(&file)?;
        self.reached = self.reached.max(at);
        self.last = Instant::now();
        if self.ended || self.walked - self.reached > self.window / 2 {
            return Some(false);
        }
        self.window = (self.window * 2).min(WINDOW_MAX);
        // What the reader has passed by is not ahead of it. A little behind: it may be several.
        let behind = self.reached.saturating_sub(BEFORE as u64);
        self.ahead.retain(|_, at| *at >= behind);
        Some(true)
    }

    /// The reader is where the walk is.
    fn overtaken(&mut self) {
        self.ahead.clear();
        self.reached = self.walked;
        self.last = Instant::now();
    }

    fn has_room(&self) -> bool {
        self.walked - self.reached < self.window
    }
}

fn remember<T>(recent: &mut VecDeque<T>, new: T) {
    if recent.len() == RECENT {
        recent.pop_front();
    }
    recent.push_back(new);
}

impl Fs {
    /// A file with a key was opened; `missed`: its key was not in memory. Called once an open.
    pub(super) fn opened(&self, inode: &Inode, missed: bool) {
        if self.ahead.on && self.ahead.seen.lock().opened(inode, missed) {
            self.ahead.wake.notify_one();
        }
    }

    /// A directory was opened to be listed.
    pub(super) fn listed(&self, dir: u64) {
        if !self.ahead.on {
            return;
        }
        let mut seen = self.ahead.seen.lock();
        remember(&mut seen.listed, dir);
        let scans = !seen.scans.is_empty();
        drop(seen);
        if scans {
            self.ahead.wake.notify_one();
        }
    }

    fn was_listed(&self, dir: u64) -> bool {
        self.ahead.seen.lock().listed.contains(&dir)
    }

    /// Until there is something to do for [`Self::look_ahead`].
    pub async fn wait_to_look_ahead(&self) {
        self.ahead.wake.notified().await;
    }

    /// Begins scans that were seen, and asks for the keys ahead of them. Reads the backing, never waits for the KMS. Gives
    /// the time after which it is to be called again, sooner if [`Self::wait_to_look_ahead`] says so; none if there is no
    /// scan.
    pub fn look_ahead(&self) -> Option<Duration> {
        let mut walks = self.ahead.walks.lock();
        let missed = std::mem::take(&mut self.ahead.seen.lock().missed);
        for missed in missed {
            self.follow(&mut walks, &missed);
        }
        let mut held = false;
        for walk in walks.iter_mut() {
            held |= self.go_on(walk);
        }
        let mut seen = self.ahead.seen.lock();
        seen.scans.retain(|scan| scan.last.elapsed() < IDLE && !(scan.ended && scan.ahead.is_empty()));
        walks.retain(|walk| seen.scan(walk.number()).is_some_and(|scan| !scan.ended));
        match seen.scans.is_empty() {
            true => None,
            false => Some(if held { HELD } else { IDLE }),
        }
    }

    /// A scan for an open that missed its key, or its place in the one that it belongs to.
    fn follow(&self, walks: &mut Vec<Walk>, missed: &Missed) {
        if let Some(walk) = walks.iter_mut().find_map(|walk| walk.pass(missed.dir.id, missed.file).then_some(walk)) {
            if let Some(scan) = self.ahead.seen.lock().scan(walk.number()) {
                scan.overtaken();
            }
            return;
        }
        let Some(walk) = self.walk_from(missed) else { return };
        let mut seen = self.ahead.seen.lock();
        // Another one of this directory has lost its reader.
        let stale: Vec<u64> = walks.iter().filter(|walk| walk.is_in(missed.dir.id)).map(Walk::number).collect();
        seen.scans.retain(|scan| !stale.contains(&scan.number));
        if seen.scans.len() >= SCANS
            && let Some((oldest, _)) = seen.scans.iter().enumerate().min_by_key(|(_, scan)| scan.last)
        {
            seen.scans.swap_remove(oldest);
        }
        walks.retain(|walk| seen.scan(walk.number()).is_some());
        seen.scans.push(Scan {
            number: walk.number(),
            ahead: HashMap::new(),
            walked: 0,
            reached: 0,
            window: WINDOW,
            last: Instant::now(),
            ended: false,
        });
        walks.push(walk);
    }

    fn walk_from(&self, missed: &Missed) -> Option<Walk> {
        let level = self.level(missed.dir.fd().ok()?.as_fd(), missed.dir.id, None).ok()?;
        let order = Order::of(&level, missed.file, &missed.before)?;
        let mut seen = self.ahead.seen.lock();
        seen.last_scan += 1;
        Walk::new(seen.last_scan, level, order, missed.dir.clone(), missed.file)
    }

    /// As far as the window and the KMS allow. True if it is the KMS that does not.
    fn go_on(&self, walk: &mut Walk) -> bool {
        loop {
            if !self.ahead.seen.lock().scan(walk.number()).is_some_and(|scan| scan.has_room()) {
                return false;
            }
            let (dir, file) = match walk.next(self) {
                Step::File(dir, file) => (dir, file),
                Step::Blocked => return false,
                Step::End => {
                    if let Some(scan) = self.ahead.seen.lock().scan(walk.number()) {
                        scan.ended = true;
                    }
                    return false;
                }
            };
            if self.prefetch(dir.as_fd(), &file.name) == Prefetch::Busy {
                walk.put_back(file);
                return true;
            }
            if let Some(scan) = self.ahead.seen.lock().scan(walk.number()) {
                scan.walked += 1;
                scan.ahead.insert(file.id, scan.walked);
            }
        }
    }

    /// Asks for the key of a stored file. What cannot be read is left to who opens the file.
    fn prefetch(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Prefetch {
        let Ok(file) = backing::open_file(dir, name) else { return Prefetch::No };
        let Ok(Inspected::Keyed(keyed)) = inspect(&self.volume, file.as_fd()) else { return Prefetch::No };
        match usable_wrappings(&keyed.header.wrappings) {
            Ok(wrapped) => self.keys.prefetch(&wrapped[0]),
            Err(_) => Prefetch::No,
        }
    }
}

#[cfg(test)]
mod tests;
