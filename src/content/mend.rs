//! What `check --repair` does to a file whose slots a crash may have left with a version beside the good one
//! (`docs/FORMAT.md` section 9). The session list may be emptied, and redo files removed, once this was done for every
//! file: then NEWEST may be believed again.

use std::ops::Range;

use crate::format::layout::SLOT_LEN;

use super::pages::{Edit, slot_in};
use super::*;

/// Pages of slots that share a barrier.
const BATCH: usize = 64;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Pages that were put back from redo files.
    pub put_back: u64,
    /// Slots that have one version now, where they had two.
    pub dropped: u64,
    /// Groups of a sparse file that were complete, and whose bit says so now.
    pub completed: u64,
    /// Blocks of which no version verifies: left as they are.
    pub unreadable: u64,
}

/// What a slot with data has that may stay.
enum Good {
    /// Its page is in the file.
    Page(usize),
    /// Its page, here as ciphertext, is in a redo file.
    Redo(usize, Box<[u8]>),
    Nothing,
}

impl Content {
    /// Puts pages back from redo files, then leaves in every slot the good version alone. Pages come first, a barrier
    /// between: cut off at any point, all reads as before and this can be done again. The caller has made durable what
    /// the kernel has of earlier sessions ([`Sessions::begin`]).
    pub fn mend(&mut self) -> Result<Mended> {
        let mut mended = Mended::default();
        if self.stored_len == 0 {
            return Ok(mended);
        }
        let volume = self.volume.clone();
        let _change = volume.sessions.change();
        let end = blocks(self.size);
        let mut block = 0;
        while block < end {
            let mut edit = Edit::default();
            let before = mended.put_back;
            for _ in 0..BATCH {
                block = self.next_with_slots(block, end)?;
                if block >= end {
                    break;
                }
                let stop = layout::slot_page_blocks(block).end.min(end);
                self.mend_page(block..stop, &mut edit, &mut mended)?;
                block = stop;
            }
            if mended.put_back > before {
                backing::fdatasync(self.file.as_fd())?;
            }
            edit.flush(&self.pages, self.file.clone().as_fd())?;
            self.pages.trim();
        }
        self.write_map(self.size, mended.completed > 0)?;
        // Where no version is good there is nothing that a NEWEST could cost; yet nothing is claimed of such a file.
        self.newest = mended.unreadable == 0;
        self.good.clear();
        self.write_record()?;
        Ok(mended)
    }

    /// The first block at or behind `block` whose page of slots the backing may have: a long hole is passed at a stroke.
    fn next_with_slots(&self, block: u64, end: u64) -> Result<u64> {
        if block >= end || !self.skipped.sparse() {
            return Ok(block);
        }
        let at = slot_place(block).0;
        let stored = backing::next_data(self.file.as_fd(), at * BLOCK)?.map_or(u64::MAX, |at| at / BLOCK);
        if stored <= at {
            return Ok(block);
        }
        let next = layout::held(stored.min(data_page(end - 1) + 1)).min(end);
        Ok(if next >= end { end } else { layout::slot_page_blocks(next).start.max(block) })
    }

    fn mend_page(&mut self, range: Range<u64>, edit: &mut Edit, mended: &mut Mended) -> Result<()> {
        let (number, _) = slot_place(range.start);
        let page = self.pages.load(number, self.file.as_fd())?;
        let filled = range.clone().all(|block| slot_in(&page, block).shape() != Shape::Empty);
        if let Some(group) = Group::of(range.start).filter(|_| filled)
            && self.skips(range.start)?
        {
            // A crash came between its last slots and its bit.
            self.skipped.set(group, true);
            mended.completed += 1;
        }
        for block in range {
            let at = slot_place(block).1;
            let slot = Slot::from_bytes(&page[at..at + SLOT_LEN]);
            let Shape::Data { newer, older } = slot.shape() else { continue };
            let half = match self.good_of(block, &slot, newer, older)? {
                Good::Page(half) => half,
                Good::Redo(half, ciphertext) => {
                    backing::write_at(self.file.as_fd(), &ciphertext, data_page(block) * BLOCK)?;
                    mended.put_back += 1;
                    half
                }
                Good::Nothing => {
                    mended.unreadable += 1;
                    continue;
                }
            };
            if older.is_some() {
                let drop = at + (1 - half) * block::VERSION_LEN;
                let page = self.pages.load_mut(number, self.file.as_fd())?;
                page[drop..drop + block::VERSION_LEN].fill(0);
                edit.touch(number, at..at + SLOT_LEN);
                mended.dropped += 1;
            }
        }
        Ok(())
    }

    fn good_of(&self, block: u64, slot: &Slot, newer: usize, older: Option<usize>) -> Result<Good> {
        let keys = self.keys()?;
        let mut page = vec![0; BLOCK_LEN];
        for half in [Some(newer), older].into_iter().flatten() {
            let version = slot.version(half).expect("the shape named it");
            let key = keys.block_key(version.meta.epoch);
            backing::read_at(self.file.as_fd(), &mut page, data_page(block) * BLOCK)?;
            if block::open_block(&key, block, version, &mut page).is_ok() {
                return Ok(Good::Page(half));
            }
            if self.volume.redo.find(&keys.header.file_id, block, version, &mut page)? {
                let ciphertext = page.clone();
                if block::open_block(&key, block, version, &mut page).is_ok() {
                    return Ok(Good::Redo(half, ciphertext.into()));
                }
            }
        }
        Ok(Good::Nothing)
    }
}
