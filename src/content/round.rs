//! The round of a file: second halves of changes, which wait for a barrier (`docs/FORMAT.md` section 8).
//!
//! A change of a block *at risk*, that is, one that may be durable already, has two halves. The first is issued at once;
//! the second waits here until a barrier has made the first durable. Reads see the whole. Blocks that are not at risk
//! have no halves, and nothing waits in durability `fast`.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::durable::redo::{Place, Ticket};
use crate::format::layout::SLOT_LEN;

use super::io::runs;
use super::pages::Edit;
use super::*;

/// The second half of a change.
pub(super) enum Waiting {
    /// Data over data: the new version is in the slot, its ciphertext in the redo file. The page has to be written.
    Over { version: Version, half: usize, page: Box<[u8]>, place: Place },
    /// Data over a hole: the page is written. The slot has to name it.
    Fill { version: Version },
    /// A hole over data: the mark is in the slot. The page's space can be given back.
    Punch,
}

struct Entry {
    waiting: Waiting,
    /// [`Round::stamp`] when the first half was issued.
    stamp: u64,
}

/// What waits of one file.
#[derive(Default)]
pub(super) struct Round {
    entries: BTreeMap<u64, Entry>,
    /// Counts the barriers that were begun: one that begins covers what has a lower stamp after.
    stamp: u64,
    /// Blocks whose pages were issued, with what stands for their places, under the stamp of that time.
    issued: Vec<(u64, Ticket, u64)>,
}

impl Round {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    pub fn get(&self, block: u64) -> Option<&Waiting> {
        self.entries.get(&block).map(|entry| &entry.waiting)
    }

    /// The version and half of a block that waits to be overwritten.
    pub fn over(&self, block: u64) -> Option<(&Version, usize)> {
        match self.get(block)? {
            Waiting::Over { version, half, .. } => Some((version, *half)),
            _ => None,
        }
    }

    /// Whether the first data of `range` is a filled hole whose slot waits; gives its block.
    pub fn first_fill(&self, range: Range<u64>) -> Option<u64> {
        self.entries
            .range(range)
            .find(|(_, entry)| matches!(entry.waiting, Waiting::Fill { .. }))
            .map(|(&block, _)| block)
    }

    /// Whether the round has to end before a change of `range`: a barrier under way, or one that failed, counts on what
    /// waits there; or a block was punched in this round, whose page must stay until the mark is durable.
    pub fn must_end_before(&self, range: Range<u64>) -> bool {
        self.entries.range(range).any(|(_, entry)| entry.stamp != self.stamp || matches!(entry.waiting, Waiting::Punch))
    }

    /// What stands for places that may have what was written into the page of `block` last, the newest first.
    pub fn issued_of(&self, block: u64) -> impl Iterator<Item = Ticket> + '_ {
        self.issued.iter().rev().filter(move |(of, ..)| *of == block).map(|(_, ticket, _)| *ticket)
    }

    /// Of all blocks.
    pub fn all_issued(&self) -> impl Iterator<Item = Ticket> + '_ {
        self.issued.iter().map(|(_, ticket, _)| *ticket)
    }

    /// What waits to overwrite: place, block, version, ciphertext.
    pub fn waiting_places(&self) -> Vec<(Place, u64, &Version, &[u8])> {
        let over = self.entries.iter().filter_map(|(&block, entry)| match &entry.waiting {
            Waiting::Over { version, page, place, .. } => Some((*place, block, version, &page[..])),
            _ => None,
        });
        over.collect()
    }

    fn insert(&mut self, block: u64, waiting: Waiting) -> Option<Waiting> {
        let stamp = self.stamp;
        self.entries.insert(block, Entry { waiting, stamp }).map(|entry| entry.waiting)
    }

    /// Blocks whose second half may be issued once a barrier with `stamp` is through, and which `wanted` says.
    fn due(&self, stamp: u64, wanted: impl Fn(&Waiting) -> bool) -> Vec<u64> {
        let due = self.entries.iter().filter(|(_, entry)| entry.stamp < stamp && wanted(&entry.waiting));
        due.map(|(&block, _)| block).collect()
    }
}

impl Content {
    /// Whether changes of this block have two halves.
    pub(super) fn at_risk(&self, block: u64) -> bool {
        block < self.risk_blocks()
    }

    pub(super) fn risk_blocks(&self) -> u64 {
        if self.volume.durability == Durability::Safe { blocks(self.risk.min(self.size)) } else { 0 }
    }

    /// Before a change: what was written before the last [`Sessions::age`] is at risk. Within [`Sessions::change`], which
    /// makes a rotation wait for the change.
    pub(super) fn look_at_age(&mut self) {
        let aged = self.volume.sessions.aged();
        if self.aged != aged {
            self.aged = aged;
            self.risk = self.risk.max(self.recorded);
        }
    }

    /// Whether a change may have a barrier inside.
    pub fn may_sync(&self) -> bool {
        self.size > 0 && (self.risk > 0 || self.aged != self.volume.sessions.aged())
    }

    /// Whether second halves wait (pages, slots, or bits of the map), or something has to be issued again.
    pub fn waits(&self) -> bool {
        !self.round.is_empty() || self.skipped.waits() || self.doubts.again || self.doubts.unrecorded
    }

    /// Lets a second half wait; what waited for the block before is done with.
    pub(super) fn wait_for_barrier(&mut self, block: u64, waiting: Waiting) {
        let pages = isize::from(matches!(waiting, Waiting::Over { .. }));
        let before = self.round.insert(block, waiting);
        self.volume.redo.count_waiting(pages);
        if let Some(Waiting::Over { place, .. }) = before {
            // Its version is in no slot any more that a crash could show without the good one beside it.
            self.volume.redo.count_waiting(-1);
            self.volume.redo.free([place]);
        }
    }

    /// Forgets what waits for a block whose change was overtaken. Its place is free after the next barrier.
    pub(super) fn wait_no_more(&mut self, block: u64) {
        if let Some(Entry { waiting: Waiting::Over { place, .. }, .. }) = self.round.entries.remove(&block) {
            self.volume.redo.count_waiting(-1);
            self.round.issued.push((block, self.volume.redo.issued(place), self.round.stamp));
        }
    }

    /// Forgets what waits for the blocks from `first` on.
    pub(super) fn wait_no_more_from(&mut self, first: u64) {
        let gone: Vec<u64> = self.round.entries.range(first..).map(|(&block, _)| block).collect();
        for block in gone {
            self.wait_no_more(block);
        }
    }

    /// Nothing waits any more, for nobody can read the file, or it is emptied. The places are free once everything is
    /// durable.
    pub fn abandon_round(&mut self) {
        self.leave_round(false);
    }

    fn leave_round(&mut self, needed: bool) {
        (self.doubts.again, self.doubts.unrecorded) = (false, false);
        self.wait_no_more_from(0);
        self.skipped.abandon();
        self.volume.redo.orphan(self.round.issued.drain(..).map(|(_, ticket, _)| ticket), needed);
    }

    /// B, then the second halves of all that waits; what is issued here needs another barrier to be durable.
    pub(super) fn end_round(&mut self) -> Result<()> {
        let sync = self.begin_barrier()?;
        let barrier = sync.barrier();
        if barrier.is_err() {
            self.barrier_failed(&sync);
        }
        barrier?;
        self.after_barrier(&sync).map(drop)
    }

    /// A barrier begins: what is issued up to here is at risk from now on. After one that failed, everything that it was
    /// to make durable is issued again first.
    pub(super) fn begin_barrier(&mut self) -> Result<Sync> {
        let failures = Failures { file: self.barriers.failures(), redo: self.volume.redo.failures() };
        let over = self.round.entries.values().any(|entry| matches!(entry.waiting, Waiting::Over { .. }));
        if failures.file != self.doubts.failures.file {
            // Who met it has not come to say so yet.
            self.issue_again_up_to(self.round.stamp);
        }
        let redo_failed = failures.redo != self.doubts.failures.redo;
        if self.doubts.again || (redo_failed && (over || self.pages.has_written())) {
            self.issue_again()?;
        }
        self.doubts.failures = failures;
        self.risk = self.risk.max(self.recorded);
        self.round.stamp = self.barriers.begin();
        let written = std::mem::take(self.pages.written());
        self.doubts.under_way.push((self.round.stamp, written));
        Ok(Sync {
            file: self.file.clone(),
            volume: self.volume.clone(),
            barriers: self.barriers.clone(),
            over,
            failures,
            recorded: self.recorded,
            cuts: self.cuts,
            stamp: self.round.stamp,
        })
    }

    /// What a barrier that is through allows: sizes are durable, places free, map bits may be written, second halves
    /// issued. True if slots of filled holes were among those: they need a barrier of their own to be durable.
    pub(super) fn after_barrier(&mut self, sync: &Sync) -> Result<bool> {
        if self.barriers.failures() != sync.failures.file
            || (sync.over && self.volume.redo.failures() != sync.failures.redo)
        {
            // Another one failed meanwhile, and the system tells an error only once.
            self.barrier_failed(sync);
            return Err(Errno::IO.into());
        }
        self.doubts.under_way.retain(|(stamp, _)| *stamp > sync.stamp);
        if !self.record_stale && !self.has_wrong_length() {
            self.doubts.unrecorded = false;
        }
        if self.cuts == sync.cuts {
            self.synced = sync.recorded.min(self.recorded);
        }
        self.cuts_synced = self.cuts_synced.max(sync.cuts);
        let durable = self.round.issued.extract_if(.., |(.., stamp)| *stamp < sync.stamp).map(|(_, ticket, _)| ticket);
        self.volume.redo.settle(durable.collect::<Vec<_>>());
        let released = self.skipped.release(sync.stamp);
        if !released && self.round.due(sync.stamp, |_| true).is_empty() {
            return Ok(false);
        }
        let volume = self.volume.clone();
        let _change = volume.sessions.change();
        self.in_passing(|content| {
            let ended = content.second_halves(sync.stamp, released);
            if ended.is_err() {
                content.distrust_slots();
            }
            ended
        })
    }

    fn second_halves(&mut self, stamp: u64, released: bool) -> Result<bool> {
        self.write_waiting_pages(stamp)?;
        let filled = self.fill_waiting_slots(stamp)?;
        self.punch_waiting_pages(stamp)?;
        if (released || filled) && self.skipped.sparse() {
            self.write_map(self.size, true)?;
            if self.record_stale {
                self.write_record()?;
            }
        }
        Ok(filled)
    }

    fn write_waiting_pages(&mut self, stamp: u64) -> Result<()> {
        let due = self.round.due(stamp, |waiting| matches!(waiting, Waiting::Over { .. }));
        for run in consecutive(&due) {
            let pages: Vec<IoSlice<'_>> = run
                .clone()
                .filter_map(|block| match self.round.get(block) {
                    Some(Waiting::Over { page, .. }) => Some(IoSlice::new(&page[..])),
                    _ => None,
                })
                .collect();
            for (chunk, mut bufs) in pages.chunks(BUFS_PER_CALL).map(<[_]>::to_vec).enumerate() {
                let at = data_page(run.start) + (chunk * BUFS_PER_CALL) as u64;
                self.pages.note_written(at * BLOCK, bufs.len() * BLOCK_LEN);
                backing::write_vectored_at(self.file.as_fd(), &mut bufs, at * BLOCK)?;
            }
            for block in run {
                if let Some((_, half)) = self.round.over(block) {
                    if !self.newest {
                        self.good.insert(block, half);
                    }
                    self.wait_no_more(block);
                }
            }
        }
        Ok(())
    }

    fn fill_waiting_slots(&mut self, stamp: u64) -> Result<bool> {
        let due = self.round.due(stamp, |waiting| matches!(waiting, Waiting::Fill { .. }));
        let mut rest = &due[..];
        while let Some(&first) = rest.first() {
            let end = layout::slot_page_blocks(first).end;
            let (now, later) = rest.split_at(rest.partition_point(|&block| block < end));
            rest = later;
            if let Err(e) = self.fill_slots_of_page(now) {
                self.pages.forget(slot_place(first).0);
                self.skipped.take_back();
                return Err(e);
            }
        }
        Ok(!due.is_empty())
    }

    /// The slots of `filled`, which share a page, in one write; with the marks that make their group complete.
    fn fill_slots_of_page(&mut self, filled: &[u64]) -> Result<()> {
        let file = self.file.clone();
        let (mut nonces, mut edit) = (Nonces::for_request(), Edit::default());
        for &block in filled {
            let Some(Waiting::Fill { version }) = self.round.get(block) else { continue };
            let version = version.to_bytes();
            let (number, at) = slot_place(block);
            let page = self.pages.load_mut(number, file.as_fd())?;
            page[at..at + SLOT_LEN].fill(0);
            page[at..at + version.len()].copy_from_slice(&version);
            edit.touch(number, at..at + SLOT_LEN);
        }
        self.complete_groups(filled[0]..filled[0] + 1, self.size, &mut nonces, &mut edit)?;
        edit.flush(&self.pages, file.as_fd())?;
        self.skipped.slots_are_written();
        for block in filled {
            if !self.newest {
                self.good.insert(*block, 0);
            }
            self.round.entries.remove(block);
        }
        Ok(())
    }

    fn punch_waiting_pages(&mut self, stamp: u64) -> Result<()> {
        let due = self.round.due(stamp, |waiting| matches!(waiting, Waiting::Punch));
        for run in consecutive(&due) {
            backing::punch(self.file.as_fd(), data_page(run.start) * BLOCK, (run.end - run.start) * BLOCK)?;
            for block in run {
                self.round.entries.remove(&block);
            }
        }
        Ok(())
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.leave_round(true);
    }
}

/// Buffers of one call to the backing, below the system's limit of 1024.
const BUFS_PER_CALL: usize = 512;

/// Runs of blocks, all of them in `sorted`, whose pages are consecutive.
fn consecutive(sorted: &[u64]) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    let mut rest = sorted;
    while let Some(&first) = rest.first() {
        let n = rest.iter().zip(first..).take_while(|(block, next)| *block == next).count();
        out.extend(runs(first, first + n as u64 - 1));
        rest = &rest[n..];
    }
    out
}
