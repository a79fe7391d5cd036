//! Changing the size: growth that skips blocks, cuts, and what has to be done before either (`docs/FORMAT.md`
//! sections 5.5 and 8, rule 4).

use std::ops::Range;

use crate::format::layout::{HEAD_BLOCKS, REGION_BLOCKS, REGION_PAGES, SLOT_LEN};

use super::io::slot_pages;
use super::*;

/// Dirty pages of slots that a long growth gathers before it writes them.
const EDIT_MAX: usize = 256;

impl Content {
    /// Sets the size. Growth skips blocks; to 0 the stored file is emptied and needs no key.
    pub fn set_size(&mut self, size: u64, scratch: &mut Scratch) -> Result<()> {
        let volume = self.volume.clone();
        let _change = volume.sessions.change();
        if size > MAX_SIZE {
            return Err(ContentError::TooBig);
        }
        self.look_at_age();
        match size.cmp(&self.size) {
            // A length that could not be set is tried again.
            std::cmp::Ordering::Equal if self.stored_len > 0 => self.set_stored_len(stored_len(size)),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less if size == 0 => {
                backing::set_len(self.file.as_fd(), 0)?;
                self.start_over();
                Ok(())
            }
            std::cmp::Ordering::Less => self.shrink(size),
            std::cmp::Ordering::Greater => self.grow(size, scratch),
        }
    }

    fn grow(&mut self, size: u64, scratch: &mut Scratch) -> Result<()> {
        self.keys()?;
        self.before_growth(scratch)?;
        let grown = self.issue_growth(size);
        if grown.is_err() {
            self.after_failure();
        }
        self.pages.trim();
        grown
    }

    fn issue_growth(&mut self, size: u64) -> Result<()> {
        let mut nonces = Nonces::for_request();
        let mut edit = Edit::default();
        if self.stored_len == 0 {
            self.stage_header(&mut edit)?;
        }
        let became_sparse = self.enter(size, None, &mut nonces, &mut edit)?;
        edit.flush(&self.pages, self.file.clone().as_fd())?;
        // Slot pages were written behind the data that is there; the file may be longer now than it was.
        self.stored_len = backing::stat(self.file.as_fd())?.st_size as u64;
        self.finish(size, became_sparse, false, false)
    }

    fn shrink(&mut self, size: u64) -> Result<()> {
        let key = self.keys()?.file.record.clone();
        let fresh = size >= self.risk;
        let old = self.size;
        self.size = size;
        self.synced = self.synced.min(size);
        if let Err(e) = self.write_record() {
            self.size = old;
            return Err(e);
        }
        let end = blocks(size);
        self.risk = self.risk.min(size);
        self.wait_no_more_from(end);
        self.good.retain(|&block, _| block < end);
        self.pages.forget_from(data_page(end - 1) + 1);
        self.slots_behind = true;
        self.tail_zero = if size.is_multiple_of(BLOCK) { Some(true) } else { None };
        let file = self.file.clone();
        let cut = self.skipped.cut(size, &self.pages, file.as_fd(), &key).map_err(ContentError::from);
        let durable = cut.and_then(|()| if fresh { Ok(()) } else { self.end_round() });
        // Growth does what is left undone here, and has a barrier before it.
        self.cuts += 1;
        durable?;
        self.set_stored_len(stored_len(size))?;
        self.empty_slots_behind()
    }

    /// Section 8, rule 4 (a) and (b).
    pub(super) fn before_growth(&mut self, scratch: &mut Scratch) -> Result<()> {
        if self.slots_behind {
            self.empty_slots_behind()?;
        }
        if self.cuts != self.cuts_synced {
            self.end_round()?;
        }
        if self.size.is_multiple_of(BLOCK) {
            return Ok(());
        }
        let block = self.size / BLOCK;
        if self.tail_zero != Some(true) {
            self.read_blocks(block, 1, scratch)?;
            let inside = (self.size % BLOCK) as usize;
            let zero = self.tail_zero.is_none() && scratch.data(BLOCK_LEN)[inside..].iter().all(|&b| b == 0);
            if !zero {
                let plain = scratch.data(BLOCK_LEN)[..inside].to_vec();
                let mut whole = vec![0; BLOCK_LEN];
                whole[..inside].copy_from_slice(&plain);
                // Its own scratch: the caller's may hold blocks that were sealed ahead. Written as data, it has zeros
                // behind what is written.
                let own = &mut Scratch::new();
                self.write_again(block, whole, own)?;
                self.end_round()?;
            }
            self.tail_zero = Some(true);
        }
        Ok(())
    }

    /// Empties slots behind the end that share a page with slots inside, or that lie in stored pages behind it.
    fn empty_slots_behind(&mut self) -> Result<()> {
        let end = blocks(self.size);
        let mut edit = Edit::default();
        if self.stored_len > 0 {
            let page_blocks = layout::slot_page_blocks(end.saturating_sub(1));
            let (number, _) = slot_place(end.saturating_sub(1));
            for block in end.max(page_blocks.start)..page_blocks.end {
                let at = slot_place(block).1;
                let page = self.pages.load_mut(number, self.file.as_fd())?;
                if page[at..at + SLOT_LEN].iter().any(|&b| b != 0) {
                    page[at..at + SLOT_LEN].fill(0);
                    edit.touch(number, at..at + SLOT_LEN);
                }
            }
            if !edit.is_empty() {
                edit.flush(&self.pages, self.file.as_fd())?;
                self.cuts += 1;
            }
            // Pages behind the end: the length takes them away.
            let length = stored_len(self.size);
            if self.stored_len != length || !self.tail_is_empty()? {
                self.set_stored_len(length / BLOCK * BLOCK)?;
                self.set_stored_len(length)?;
                self.cuts += 1;
            }
        }
        self.slots_behind = false;
        Ok(())
    }

    /// Growth to `new_size`, of which `written` is sealed by the caller: marks for skipped blocks, regions and groups
    /// entered (rule 4 (c)). True if the file becomes sparse by it.
    pub(super) fn enter(
        &mut self,
        new_size: u64,
        written: Option<Range<u64>>,
        nonces: &mut Nonces,
        edit: &mut Edit,
    ) -> Result<bool> {
        let (old, new) = (blocks(self.size), blocks(new_size));
        if new <= old {
            return Ok(false);
        }
        let written = written.unwrap_or(new..new);
        let key = self.keys()?.file.record.clone();
        self.skipped.before_growth(self.size, &self.pages, self.file.as_fd(), &key)?;
        // Pages of slots that begin behind the old end are new: nothing is read for them. A long growth without data
        // enters few of them: those of head blocks.
        if written.start < written.end {
            for number in slot_pages(written.start.max(old), written.end - 1) {
                self.begin_slot_page(number, old);
            }
        }
        let mut skips_group = false;
        let mut block = old;
        while block < written.start.min(new) {
            let page_blocks = layout::slot_page_blocks(block);
            let stop = page_blocks.end.min(written.start).min(new);
            let mark = match Group::of(block) {
                None => true,
                Some(group) => {
                    let begun = group.first_block() < old;
                    let touched = written.start < group.end_block() && written.start < written.end;
                    if begun {
                        self.skipped.complete(group, &self.pages, self.file.as_fd(), &key)?
                    } else {
                        // A touched group gets its marks in complete_groups().
                        skips_group |= !touched;
                        false
                    }
                }
            };
            if mark {
                let (number, _) = slot_place(block);
                self.begin_slot_page(number, old);
                self.reserve_seals(stop - block)?;
                for block in block..stop {
                    self.put_mark(block, 0, nonces, edit)?;
                }
                if edit.len() >= EDIT_MAX {
                    edit.flush(&self.pages, self.file.as_fd())?;
                    self.pages.trim();
                }
            }
            if Group::of(block).is_some() && !mark && written.start >= written.end {
                // Growth without data: whole groups are skipped at a stroke, up to the next region's head.
                let region_end = (block / REGION_BLOCKS + 1) * REGION_BLOCKS;
                block = region_end.min(new).max(stop);
                skips_group = true;
            } else if Group::of(block).is_some() && !mark {
                let region_end = (block / REGION_BLOCKS + 1) * REGION_BLOCKS;
                let target = Group::of(written.start).map_or(written.start, |group| group.first_block());
                block = region_end.min(target).max(stop);
            } else {
                block = stop;
            }
        }
        let becomes_sparse = skips_group && !self.skipped.sparse();
        if becomes_sparse {
            self.skipped.become_sparse(self.size);
            self.record_stale = true;
        }
        if self.skipped.sparse() {
            for region in old.saturating_sub(1) / REGION_BLOCKS..=(new - 1) / REGION_BLOCKS {
                let inside = |blocks: u64| blocks.saturating_sub(region * REGION_BLOCKS);
                if inside(old) <= HEAD_BLOCKS && inside(new) > HEAD_BLOCKS {
                    self.skipped.enter_region(region);
                }
            }
        }
        Ok(becomes_sparse)
    }

    /// A page of slots that the file of `old` blocks does not have begins as zeros, and is not read.
    fn begin_slot_page(&mut self, number: u64, old: u64) {
        let region = number / REGION_PAGES;
        let begins = match number % REGION_PAGES {
            0 => region * REGION_BLOCKS,
            31 => region * REGION_BLOCKS + HEAD_BLOCKS,
            in_region => region * REGION_BLOCKS + (in_region - 1) / 65 * 64,
        };
        if begins >= old && number != 0 && self.pages.cached(number).is_none() {
            self.pages.fresh(number);
        }
    }
}
