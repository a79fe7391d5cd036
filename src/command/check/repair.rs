//! What `--repair` does beyond sweeping: files are settled one by one; then, if every file could be gone through, the
//! sessions that did not end leave the list, and last their redo files are removed (`docs/FORMAT.md` section 9).
//!
//! Every step leaves a volume that reads the same and can be repaired again: a file's pages are put back before the
//! version beside them goes, and the list is emptied after a `syncfs`, before the redo files go.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;

use crate::backing;
use crate::content::examine::look_at_head;
use crate::content::{Content, ContentError, Inspected, inspect};
use crate::format::REDO_PREFIX;

use super::Checker;
use super::report::{Finding, Kind, Severity};

impl Checker<'_> {
    /// Mends one file: header copies, length, and, if asked, slots; `redo`: a page of it was read from a redo file. Its
    /// mtime stays.
    pub fn mend(&self, file: BorrowedFd<'_>, slots: bool, redo: bool) -> Result<(), String> {
        let volume = self.shared.clone();
        let file = Arc::new(backing::reopen(file, OFlags::RDWR).map_err(|e| ContentError::from(e).to_string())?);
        let mend = || -> Result<(), String> {
            let text = |e: ContentError| e.to_string();
            if let Some(head) = look_at_head(volume.view(), file.as_fd()).map_err(text)? {
                head.mend_copies(file.as_fd()).map_err(text)?;
            }
            let Inspected::Keyed(keyed) = inspect(&volume, file.as_fd()).map_err(text)? else { return Ok(()) };
            let Some(keys) = &self.keys else { return Ok(()) };
            let key = self.fetch(keys, &keyed.header)?;
            let file_id = keyed.header.file_id;
            // Exposed: content derives its keys from it. Opening sets a length right that a crash left.
            let mut content = match Content::open(volume.clone(), file.clone(), true, *keyed, key.secret()) {
                Ok(content) => content,
                // Damage, which was told: such a file reads as before whatever the session list says. What a redo file
                // has of it may be all that there is of a block, and stays; of a file that was cut also what its slots do
                // not ask for now: they may be put back.
                Err(e @ (ContentError::Record | ContentError::Cut { .. })) => {
                    if redo || (matches!(e, ContentError::Cut { .. }) && volume.redo.has_left(&file_id)) {
                        self.could_not_settle();
                    }
                    return Ok(());
                }
                Err(e) => return Err(text(e)),
            };
            if slots {
                content.mend().map_err(text)?;
            }
            content.close().map_err(text)
        };
        let before = backing::stat(file.as_fd()).map_err(|e| ContentError::from(e).to_string())?;
        let mended = mend();
        let _ = backing::set_mtime(file.as_fd(), &before);
        mended
    }

    /// Something was left as it is that needs the session list, or the redo files.
    pub fn could_not_settle(&self) {
        self.unsettled.store(true, Ordering::Relaxed);
    }

    /// The end of a repair.
    pub fn settle(&self) {
        let kept = self.unsettled.load(Ordering::Relaxed) || self.report.any_unchecked();
        let (sessions, redo) = (&self.volume.sessions, &self.volume.redo);
        let ended = if kept { sessions.end(redo) } else { sessions.end_all(redo) };
        let failed = |cause: String| {
            self.report.add(Finding::new(Severity::Unchecked, Kind::Repair, None, b"", cause));
        };
        if let Err(e) = ended {
            return failed(format!("the repair could not be ended: {e}"));
        }
        if kept {
            if self.crashed > 0 {
                failed(
                    "the sessions that did not end stay in the list, since not every file could be gone through".into(),
                );
            }
            return;
        }
        self.report.repaired(|finding| finding.kind == Kind::Session);
        if let Err(e) = self.remove_redo_files() {
            failed(format!("redo files that nobody needs any more could not be removed: {e}"));
        }
    }

    /// Nobody is in the list any more.
    fn remove_redo_files(&self) -> Result<(), rustix::io::Errno> {
        let mut left = Vec::new();
        let dir = backing::open_dir(self.root)?;
        backing::list_dir(dir.as_fd(), 0, &mut Vec::with_capacity(64 * 1024), |entry| {
            if entry.name.starts_with(REDO_PREFIX.as_bytes()) {
                left.push(entry.name.to_vec());
            }
            true
        })?;
        left.iter().try_for_each(|name| backing::unlink(self.root, name))
    }
}
