//! Holes: punching them, and finding data and holes.

use std::ops::Range;

use crate::format::layout::SLOT_LEN;

use super::pages::slot_in;
use super::round::Waiting;
use super::*;

impl Content {
    /// Makes `off..off + len` read as zeros, without changing the size: whole blocks become holes and give their space
    /// back, edges are overwritten.
    pub fn punch(&mut self, off: u64, len: u64, scratch: &mut Scratch) -> Result<()> {
        let volume = self.volume.clone();
        let _change = volume.sessions.change();
        let end = off.saturating_add(len).min(self.size);
        if off >= end {
            return Ok(());
        }
        self.look_at_age();
        // The last block counts as whole if nothing of the file lies behind `end` in it.
        let (first, stop) = (off.div_ceil(BLOCK), if end == self.size { blocks(end) } else { end / BLOCK });
        if self.round.must_end_before(off / BLOCK..blocks(end)) {
            self.end_round()?;
        }
        if first >= stop {
            return self.zero_edge(off..end, scratch);
        }
        self.zero_edge(off..first * BLOCK, scratch)?;
        self.zero_edge(stop * BLOCK..end, scratch)?;
        self.punch_blocks(first..stop)
    }

    fn zero_edge(&mut self, range: Range<u64>, scratch: &mut Scratch) -> Result<()> {
        if range.start >= range.end {
            return Ok(());
        }
        let zeros = [0; BLOCK_LEN];
        let mut off = range.start;
        while off < range.end {
            let n = (range.end - off).min(BLOCK) as usize;
            self.write_at(off, &zeros[..n], scratch, None)?;
            off += n as u64;
        }
        Ok(())
    }

    fn punch_blocks(&mut self, range: Range<u64>) -> Result<()> {
        let mut block = range.start;
        while block < range.end {
            let end = layout::slot_page_blocks(block).end.min(range.end);
            let punched = self.punch_in_page(block..end);
            if punched.is_err() {
                self.pages.forget(slot_place(block).0);
                self.good.clear();
                self.distrust_slots();
            }
            punched?;
            block = end;
        }
        if self.record_stale {
            self.write_record()?;
        }
        Ok(())
    }

    /// Blocks whose slots share a page: marks first, then the pages.
    fn punch_in_page(&mut self, range: Range<u64>) -> Result<()> {
        let (number, _) = slot_place(range.start);
        let page = self.pages.load(number, self.file.as_fd())?;
        let mut nonces = Nonces::for_request();
        let mut edit = Edit::default();
        let mut marked = Vec::new();
        for block in range.clone() {
            if self.round.first_fill(block..block + 1).is_some() {
                // Its slot says still that it is a hole.
                self.wait_no_more(block);
                continue;
            }
            let at = slot_place(block).1;
            let slot = Slot::from_bytes(&page[at..at + SLOT_LEN]);
            let seq = match slot.shape() {
                Shape::Hole(_) => continue,
                Shape::Empty if self.skips(block)? => continue,
                Shape::Data { newer, .. } => slot.version(newer).expect("the shape named it").meta.seq.wrapping_add(1),
                // Damaged: zeros are what the caller asks for.
                Shape::Empty | Shape::Invalid => 0,
            };
            self.reserve_seals(1)?;
            self.put_mark(block, seq, &mut nonces, &mut edit)?;
            marked.push(block);
        }
        if edit.is_empty() {
            return Ok(());
        }
        edit.flush(&self.pages, self.file.as_fd())?;
        let risk = self.risk_blocks();
        for block in marked.into_iter().filter(|&block| block < risk) {
            self.wait_for_barrier(block, Waiting::Punch);
        }
        let first = range.start.max(risk);
        if first >= range.end {
            return Ok(());
        }
        let len = (range.end - first) * BLOCK;
        Ok(backing::punch(self.file.as_fd(), data_page(first) * BLOCK, len)?)
    }

    /// The first offset at or behind `off` that is data (`data` true) or a hole, exact to the block; the end of the
    /// file counts as a hole. `None` if there is none: ENXIO.
    pub fn seek(&self, off: u64, data: bool) -> Result<Option<u64>> {
        if off >= self.size {
            return Ok(None);
        }
        let mut block = off / BLOCK;
        let end = blocks(self.size);
        while block < end {
            if let Some(group) = Group::of(block)
                && self.skips(block)?
                && self.round.first_fill(group.first_block()..group.end_block()).is_none()
            {
                // A whole group without a version of its own, unless a slot says otherwise.
                if self.pages.load(group.tag_page(), self.file.as_fd())?.iter().all(|&b| b == 0) {
                    if !data {
                        return Ok(Some((block * BLOCK).max(off)));
                    }
                    block = self.next_stored(group)?;
                    continue;
                }
            }
            let (number, at) = slot_place(block);
            let slot = Slot::from_bytes(&self.pages.load(number, self.file.as_fd())?[at..at + SLOT_LEN]);
            let hole = match slot.shape() {
                _ if self.round.first_fill(block..block + 1).is_some() => false,
                Shape::Hole(_) => true,
                Shape::Empty => self.skips(block)?,
                Shape::Data { .. } | Shape::Invalid => false,
            };
            if hole != data {
                return Ok(Some((block * BLOCK).max(off)));
            }
            block += 1;
        }
        Ok(if data { None } else { Some(self.size) })
    }

    /// The first of the blocks up to `last` that have no version, one after the other, though their groups are complete;
    /// `last` is one. A file may have lost a terabyte so: where the backing has a hole there are neither slots nor maps,
    /// and it is passed without reading.
    pub(super) fn first_missing(&self, last: u64) -> Result<u64> {
        let hole = self.hole_around(slot_place(last).0)?;
        let mut first = layout::slot_page_blocks(last).start;
        if hole.is_empty() {
            let slots = self.pages.load(slot_place(last).0, self.file.as_fd())?;
            let missing = (first..=last).rev().take_while(|&block| slot_in(&slots, block) == Slot::EMPTY);
            return Ok(missing.last().unwrap_or(last));
        }
        while first > 0 {
            let region = (first - 1) / layout::REGION_BLOCKS;
            let before = layout::slot_page_blocks(first - 1).start;
            if hole.contains(&(region * layout::REGION_PAGES)) {
                // No map of it verifies, so all of it counts as complete.
                first = region * layout::REGION_BLOCKS;
            } else if hole.contains(&slot_place(before).0) && !self.skips(before)? {
                first = before;
            } else {
                break;
            }
        }
        self.pages.trim();
        Ok(first)
    }

    /// The pages up to `page` in which the backing has nothing stored, one after the other; empty if `page` is stored or
    /// the backing can't tell.
    fn hole_around(&self, page: u64) -> Result<Range<u64>> {
        let is_hole = |from: u64| -> Result<bool> {
            Ok(backing::next_data(self.file.as_fd(), from * BLOCK)?.is_none_or(|at| at / BLOCK > page))
        };
        let (mut stored, mut empty) = (0, page + 1);
        // Below `stored` something is, from `empty` on nothing.
        while stored < empty {
            let middle = stored + (empty - stored) / 2;
            if is_hole(middle)? {
                empty = middle;
            } else {
                stored = middle + 1;
            }
        }
        Ok(empty..page + 1)
    }

    /// The first block behind `group` whose slot the backing may have: a run of skipped groups is passed at a stroke
    /// where the backing knows that nothing is stored there.
    fn next_stored(&self, group: Group) -> Result<u64> {
        let from = (group.tag_page() + 1) * BLOCK;
        let stored = backing::next_data(self.file.as_fd(), from)?.map_or(u64::MAX, |at| at / BLOCK);
        let block = layout::held(stored.min(data_page(blocks(self.size)) + 1));
        Ok(layout::slot_page_blocks(block).start.max(group.end_block()))
    }
}
