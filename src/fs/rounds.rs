//! The files whose second halves wait for a barrier, and who ends their rounds (`docs/FORMAT.md` section 8).
//!
//! A file with something waiting stays open until nothing waits, also when its last handle is gone, and its inode stays
//! known: the table holds one use and one look-up of it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::backing;
use crate::content::{self, Content, ContentError};

use super::open_files::OpenFile;
use super::{Fs, FsError, Result};

/// How long a second half waits at most, as long as the backing works.
const ROUND_AGE: Duration = Duration::from_secs(5);
/// How often [`Fs::tend`] is to be called.
pub const TEND: Duration = Duration::from_secs(1);
/// Waiting files, beyond which rounds are ended early: each holds a descriptor.
const FILES_MAX: usize = 512;
/// Files that are synced one by one; more of them are synced with the whole backing file system.
const ONE_BY_ONE: usize = 4;
/// How often an operation makes room in the redo file before it gives up.
const ROOM_TRIES: usize = 4;

#[derive(Default)]
pub struct Rounds {
    waiting: Mutex<HashMap<u64, (Arc<OpenFile>, Instant)>>,
    /// Held while rounds of many files are ended: whoever finds too much waiting waits here.
    ending: Mutex<()>,
}

impl Fs {
    /// Changes a file's content by `change`, which may be called again: where the redo file has no place, rounds are
    /// ended first.
    pub(super) fn change<T>(
        &self,
        file: &Arc<OpenFile>,
        mut change: impl FnMut(&mut Content) -> content::Result<T>,
    ) -> Result<T> {
        if self.names_may_lag(file) && file.content.read().may_sync() {
            self.sync_names_of(file)?;
        }
        let (mut tries, mut made_room) = (0, false);
        let changed = loop {
            let mut content = file.content.write();
            match change(&mut content) {
                // As often as it takes, as long as each time some of it was written.
                Err(ContentError::RedoFull { written }) if written > 0 || tries < ROOM_TRIES => {
                    tries = if written > 0 { 0 } else { tries + 1 };
                }
                // Holes that wait to be punched have space to give.
                Err(ContentError::Backing(Errno::NOSPC | Errno::DQUOT)) if !made_room && self.anything_waits() => {
                    made_room = true;
                }
                changed => {
                    // Also after an error: a part may have been written.
                    self.note_waiting(file, &content);
                    break changed;
                }
            }
            self.note_waiting(file, &content);
            drop(content);
            self.end_rounds(Duration::ZERO)?;
            self.volume.redo.syncfs()?;
        };
        if self.volume.redo.is_crowded() || self.rounds.waiting.lock().len() > FILES_MAX {
            let _one_at_a_time = self.rounds.ending.lock();
            if self.volume.redo.is_crowded() || self.rounds.waiting.lock().len() > FILES_MAX {
                // What cannot be written now waits on; fsync and close will say so.
                if let Err(e) = self.end_rounds_now(Duration::ZERO) {
                    tracing::error!("second halves of changes could not be written, they are tried again: {e}");
                }
            }
        }
        Ok(changed?)
    }

    pub(super) fn anything_waits(&self) -> bool {
        !self.rounds.waiting.lock().is_empty()
    }

    /// `content` is that of `file`, which the caller holds open.
    pub(super) fn note_waiting(&self, file: &Arc<OpenFile>, content: &Content) {
        if !content.waits() || file.waiting.swap(true, Ordering::Relaxed) {
            return;
        }
        file.users.fetch_add(1, Ordering::Relaxed);
        self.inodes.hold(&file.inode);
        self.rounds.waiting.lock().insert(file.inode.id, (file.clone(), Instant::now()));
    }

    /// From time to time: ends rounds that are old, and takes what was written for durable.
    pub fn tend(&self) {
        self.volume.sessions.age();
        // Errors are in the log, and are tried again.
        let _ = self.end_rounds(ROUND_AGE);
    }

    /// Ends all rounds that are as old as `age`.
    ///
    /// # Errors
    /// The last one met; the rounds of other files have ended. What could not be written waits on.
    pub fn end_rounds(&self, age: Duration) -> Result<()> {
        let _one_at_a_time = self.rounds.ending.lock();
        self.end_rounds_now(age)
    }

    fn end_rounds_now(&self, age: Duration) -> Result<()> {
        let now = Instant::now();
        let due: Vec<Arc<OpenFile>> = {
            let waiting = self.rounds.waiting.lock();
            let due = waiting.values().filter(|(_, since)| now.duration_since(*since) >= age);
            due.map(|(file, _)| file.clone()).collect()
        };
        let mut ended = Ok(());
        let mut live = Vec::new();
        for file in due {
            if self.drop_if_unlinked(&file) || !file.content.read().waits() {
                self.waits_no_more(&file);
            } else {
                live.push(file);
            }
        }
        let mut syncs = Vec::new();
        for file in &live {
            let _open = file.inode.open.lock();
            let begun = file.content.write().begin_round_end();
            match begun {
                Ok(sync) => syncs.push((file, sync)),
                Err(e) => {
                    tracing::error!(
                        ino = file.inode.id,
                        "what a failed sync was to keep could not be written again: {e}"
                    );
                    ended = Err(e.into());
                }
            }
        }
        let together = syncs.len() > ONE_BY_ONE;
        if together && let Err(e) = self.volume.redo.syncfs() {
            tracing::error!(files = syncs.len(), "changes wait on, the backing could not be synced: {e}");
            syncs.iter().for_each(|(file, sync)| file.content.write().barrier_failed(sync));
            return Err(e.into());
        }
        for (file, sync) in syncs {
            let end = || -> Result<()> {
                if !together {
                    self.sync_names_of(file)?;
                    let barrier = sync.barrier();
                    if barrier.is_err() {
                        file.content.write().barrier_failed(&sync);
                    }
                    barrier?;
                }
                // With the lock that setting times takes: pages that are written here keep the mtime.
                let _open = file.inode.open.lock();
                file.content.write().end_sync(&sync)?;
                Ok(())
            };
            match end() {
                Ok(()) => self.waits_no_more(file),
                Err(e) => {
                    tracing::error!(
                        ino = file.inode.id,
                        "a change waits on, its second half could not be written: {e}"
                    );
                    ended = Err(e);
                }
            }
        }
        if self.volume.redo.wants_syncfs() {
            self.volume.redo.syncfs()?;
        }
        ended
    }

    /// What waits of an entry that is about to lose its name.
    pub(super) fn waiting_entry(&self, dir: BorrowedFd<'_>, entry: &[u8]) -> Option<Arc<OpenFile>> {
        if self.rounds.waiting.lock().is_empty() {
            return None;
        }
        let id = self.inodes.id_of(backing::stat_entry(dir, entry).ok()?.st_ino);
        self.rounds.waiting.lock().get(&id).map(|(file, _)| file.clone())
    }

    /// After a name or a handle is gone: if it was the last, nothing has to wait, and the space is free at once.
    pub(super) fn end_if_unlinked(&self, file: &Arc<OpenFile>) {
        if file.waiting.load(Ordering::Relaxed) && self.drop_if_unlinked(file) {
            self.waits_no_more(file);
        }
    }

    /// A file that nobody can open any more needs no second halves.
    fn drop_if_unlinked(&self, file: &OpenFile) -> bool {
        let _open = file.inode.open.lock();
        let unlinked = || backing::stat(file.content.read().file().as_fd()).is_ok_and(|stat| stat.st_nlink == 0);
        if file.users.load(Ordering::Relaxed) > 1 || !unlinked() {
            return false;
        }
        file.content.write().abandon_round();
        true
    }

    /// Gives the file back, unless something has begun to wait again.
    fn waits_no_more(&self, file: &Arc<OpenFile>) {
        {
            // Under the content's lock: nobody notes it as waiting in between.
            let content = file.content.write();
            let mut waiting = self.rounds.waiting.lock();
            if content.waits() {
                if let Some((_, since)) = waiting.get_mut(&file.inode.id) {
                    *since = Instant::now();
                }
                return;
            }
            if waiting.remove(&file.inode.id).is_none() {
                return;
            }
            file.waiting.store(false, Ordering::Relaxed);
        }
        if let Err(e) = self.close_shared(file) {
            tracing::error!(ino = file.inode.id, "closing a file whose round has ended: {e}");
        }
        self.inodes.forget(file.inode.id, 1);
    }

    /// The number of this mount's session is renewed: see [`crate::durable::Sessions::rotate`].
    pub fn rotate_session(&self) -> std::result::Result<(), crate::durable::StateError> {
        self.volume.sessions.rotate(&self.volume.redo, || {
            self.end_rounds(Duration::ZERO).map_err(|e| match e {
                FsError::Backing(e) | FsError::Content(ContentError::Backing(e)) => e,
                _ => Errno::IO,
            })
        })
    }
}
