//! After a barrier that failed (`docs/FORMAT.md` section 8, rule 7).
//!
//! When the system cannot write pages back it says so once, and takes them for clean: the next barrier tells nothing of
//! them. So what a failed barrier was to make durable is issued again before another one counts: from the backing's
//! cache, as long as that has what was written, from memory and from the redo file.

use super::round::Waiting;
use super::*;

/// Pages that are read and written in one call.
const PAGES_PER_CALL: u64 = 256;

/// What is known of barriers that failed.
#[derive(Default)]
pub(super) struct Doubts {
    /// Pages that a barrier under way covers, by its stamp.
    pub under_way: Vec<(u64, pages::Written)>,
    /// Everything that is not durable has to be issued again.
    pub again: bool,
    /// The record does not say what is known of the slots, or a length could not be set: to be written, and a barrier.
    pub unrecorded: bool,
    /// What had failed at the last barrier.
    pub failures: Failures,
}

impl Doubts {
    pub fn new(volume: &Volume) -> Self {
        Self { failures: Failures { file: 0, redo: volume.redo.failures() }, ..Self::default() }
    }
}

impl Content {
    /// What the barrier of `sync` was to make durable may never be written by the system. Nothing older is in danger:
    /// second halves wait on, and places of the redo file are kept.
    pub fn barrier_failed(&mut self, sync: &Sync) {
        self.issue_again_up_to(sync.stamp);
    }

    /// What the barriers up to `stamp` were to make durable has to be issued again.
    pub(super) fn issue_again_up_to(&mut self, stamp: u64) {
        self.doubts.again = true;
        self.record_stale = true;
        self.volume.redo.hold(self.round.all_issued());
        for (_, written) in self.doubts.under_way.extract_if(.., |(begun, _)| *begun <= stamp) {
            self.pages.written().join(written);
        }
    }

    /// After a write that failed the newer version of a slot need not be the good one. The file stays open until the
    /// record says so: no session may end before.
    pub(super) fn distrust_slots(&mut self) {
        self.newest = false;
        self.record_stale = true;
        self.doubts.unrecorded = true;
    }

    /// The record or the length is not what is known: before a barrier that is to make it durable.
    pub(super) fn mend_head(&mut self) -> Result<()> {
        if self.stored_len == 0 || !self.writable || !(self.record_stale || self.has_wrong_length()) {
            return Ok(());
        }
        if self.size == 0 {
            // The first write failed, and what it left could not be taken back.
            backing::set_len(self.file.as_fd(), 0)?;
            self.start_over();
            return Ok(());
        }
        self.write_record_in_passing()
    }

    /// Issues all that is not known to be durable once more, with what there is of it.
    ///
    /// # Errors
    /// Of the backing: it will be tried again. [`ContentError::Block`]: the block that was written is lost, which is told
    /// once; all else was issued.
    pub(super) fn issue_again(&mut self) -> Result<()> {
        let volume = self.volume.clone();
        let _change = volume.sessions.change();
        self.doubts.again = true;
        let lost = self.in_passing(|content| {
            let lost = content.pages_again()?;
            content.places_again()?;
            Ok(lost)
        })?;
        self.doubts.again = false;
        lost.map_or(Ok(()), |block| Err(ContentError::Block { block }))
    }

    /// Gives a block that is lost, if there is one.
    fn pages_again(&mut self) -> Result<Option<u64>> {
        let (mut lost, end) = (None, self.stored_len / BLOCK);
        for range in self.pages.written().ranges() {
            let mut at = range.start;
            while at < range.end.min(end) {
                let stop = (at + PAGES_PER_CALL).min(range.end).min(end);
                let mut bytes = vec![0; (stop - at) as usize * BLOCK_LEN];
                let there = backing::read_at(self.file.as_fd(), &mut bytes, at * BLOCK)?;
                for (number, page) in (at..stop).zip(bytes.chunks_exact_mut(BLOCK_LEN)) {
                    if let Some(block) = self.page_again(number, page)? {
                        lost = Some(block);
                    }
                }
                backing::write_at(self.file.as_fd(), &bytes[..there], at * BLOCK)?;
                at = stop;
            }
        }
        self.pages.trim();
        Ok(lost)
    }

    /// Makes `bytes`, read from the page `number`, what was written there last. Gives its block if that is lost.
    fn page_again(&mut self, number: u64, bytes: &mut [u8]) -> Result<Option<u64>> {
        let block = layout::held(number);
        if data_page(block) != number {
            if let Some(page) = self.pages.cached(number) {
                bytes.copy_from_slice(&page[..]);
            }
            return Ok(None);
        }
        if block >= blocks(self.size) {
            return Ok(None);
        }
        let slot = pages::slot_in(&*self.pages.load(slot_place(block).0, self.file.as_fd())?, block);
        let wanted = match self.round.get(block) {
            Some(Waiting::Over { half, .. }) => slot.version(1 - half).copied(),
            Some(Waiting::Fill { version }) => Some(*version),
            Some(Waiting::Punch) => None,
            None => match (slot.shape(), self.good.get(&block)) {
                (Shape::Data { newer, .. }, _) if self.newest => slot.version(newer).copied(),
                (Shape::Data { .. }, Some(&half)) => slot.version(half).copied(),
                // A write failed, which was told, and what it left was not looked at.
                _ => None,
            },
        };
        let Some(wanted) = wanted else { return Ok(None) };
        let keys = self.keys()?;
        let key = keys.block_key(wanted.meta.epoch);
        let verifies = |page: &[u8]| block::open_block(&key, block, &wanted, &mut page.to_vec()).is_ok();
        if verifies(bytes) {
            return Ok(None);
        }
        let mut page = vec![0; BLOCK_LEN];
        for ticket in self.round.issued_of(block) {
            if self.volume.redo.read(ticket, &mut page) && verifies(&page) {
                bytes.copy_from_slice(&page);
                return Ok(None);
            }
        }
        if self.volume.redo.find(&keys.header.file_id, block, &wanted, &mut page)? && verifies(&page) {
            return Ok(None);
        }
        if let Some(Waiting::Fill { .. }) = self.round.get(block) {
            // The hole that its slot says.
            self.wait_no_more(block);
        }
        Ok(Some(block))
    }

    /// Ciphertext that waits, into its places of the redo file.
    fn places_again(&self) -> Result<()> {
        let waiting = self.round.waiting_places();
        if waiting.is_empty() {
            return Ok(());
        }
        let places: Vec<_> = waiting.iter().map(|(place, ..)| *place).collect();
        let blocks = waiting.iter().map(|&(_, block, version, page)| (block, *version, page));
        Ok(self.volume.redo.write(&places, self.keys()?.header.file_id, blocks)?)
    }
}
