//! The pages of a stored file that hold slots, cached; and edits of them on their way to the file.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::backing;
use crate::format::block::Slot;
use crate::format::layout::{BLOCK, BLOCK_LEN, SLOT_LEN, slot_place};

pub type Page = [u8; BLOCK_LEN];

/// Pages kept for one file: slots of 1 GiB of data, 16 MiB of memory.
const KEEP: usize = 4096;

/// The cache of one file's head and tag pages. What is cached equals what was read or written last; readers share it.
/// And which pages of the file were written, of any kind, until they are durable.
#[derive(Default)]
pub struct SlotPages {
    cache: Mutex<HashMap<u64, Arc<Page>>>,
    written: Mutex<Written>,
}

impl SlotPages {
    pub fn cached(&self, number: u64) -> Option<Arc<Page>> {
        self.cache.lock().get(&number).cloned()
    }

    pub fn insert(&self, number: u64, page: Arc<Page>) {
        self.cache.lock().insert(number, page);
    }

    /// Forgets pages beyond the number that is kept. Only where no edit is under way: what is dirty is not cached twice.
    pub fn trim(&self) {
        let mut map = self.cache.lock();
        if map.len() > KEEP {
            let mut surplus = map.len() - KEEP / 2;
            map.retain(|&number, _| {
                let keep = number == 0 || surplus == 0;
                surplus -= usize::from(!keep);
                keep
            });
        }
    }

    /// The page, read from `file` where it is not cached. Pages behind the file's end are zeros.
    pub fn load(&self, number: u64, file: BorrowedFd<'_>) -> Result<Arc<Page>, Errno> {
        if let Some(page) = self.cached(number) {
            return Ok(page);
        }
        let mut page = [0; BLOCK_LEN];
        backing::read_at(file, &mut page, number * BLOCK)?;
        let page = Arc::new(page);
        self.insert(number, page.clone());
        Ok(page)
    }

    pub fn load_mut(&mut self, number: u64, file: BorrowedFd<'_>) -> Result<&mut Page, Errno> {
        self.load(number, file)?;
        Ok(Arc::make_mut(self.cache.get_mut().get_mut(&number).expect("loaded above")))
    }

    /// A page that the file does not have yet.
    pub fn fresh(&mut self, number: u64) {
        self.insert(number, Arc::new([0; BLOCK_LEN]));
    }

    pub fn forget(&mut self, number: u64) {
        self.cache.get_mut().remove(&number);
    }

    pub fn forget_from(&mut self, first: u64) {
        self.cache.get_mut().retain(|&number, _| number < first);
    }

    pub fn clear(&mut self) {
        self.cache.get_mut().clear();
    }

    /// Bytes of the file that are being written.
    pub fn note_written(&self, off: u64, len: usize) {
        self.written.lock().add(off / BLOCK..(off + len as u64).div_ceil(BLOCK));
    }

    pub fn has_written(&self) -> bool {
        !self.written.lock().ranges.is_empty()
    }

    /// What was written since the last barrier that was begun.
    pub fn written(&mut self) -> &mut Written {
        self.written.get_mut()
    }
}

/// Pages of a file that were written and are not known to be durable.
#[derive(Default, Debug)]
pub struct Written {
    /// Begin and end of ranges that do not touch.
    ranges: BTreeMap<u64, u64>,
}

/// Ranges of which the smallest gaps are closed where they become too many: 1 MiB of memory.
const RANGES_MAX: usize = 16384;
const GAP: u64 = 256;

impl Written {
    pub fn add(&mut self, pages: Range<u64>) {
        let mut new = pages;
        // Those that overlap or touch.
        while let Some((&start, &end)) = self.ranges.range(..=new.end).next_back()
            && end >= new.start
        {
            new = start.min(new.start)..end.max(new.end);
            self.ranges.remove(&start);
        }
        self.ranges.insert(new.start, new.end);
        if self.ranges.len() > RANGES_MAX {
            let mut gap = GAP;
            while self.ranges.len() > RANGES_MAX / 2 {
                self.close_gaps(gap);
                gap = gap.saturating_mul(8);
            }
        }
    }

    fn close_gaps(&mut self, gap: u64) {
        let mut closed: Vec<(u64, u64)> = Vec::new();
        for (start, end) in std::mem::take(&mut self.ranges) {
            match closed.last_mut() {
                Some((_, last)) if start - *last <= gap => *last = end,
                _ => closed.push((start, end)),
            }
        }
        self.ranges.extend(closed);
    }

    pub fn join(&mut self, other: Self) {
        other.ranges.into_iter().for_each(|(start, end)| self.add(start..end));
    }

    pub fn ranges(&self) -> Vec<Range<u64>> {
        self.ranges.iter().map(|(&start, &end)| start..end).collect()
    }
}

pub fn slot_in(page: &Page, block: u64) -> Slot {
    let at = slot_place(block).1;
    Slot::from_bytes(&page[at..at + SLOT_LEN])
}

/// Bytes of cached pages that were changed and have to be written: one range a page.
#[derive(Default, Debug)]
pub struct Edit {
    dirty: BTreeMap<u64, Range<usize>>,
}

impl Edit {
    pub fn touch(&mut self, page: u64, range: Range<usize>) {
        self.dirty
            .entry(page)
            .and_modify(|dirty| {
                dirty.start = dirty.start.min(range.start);
                dirty.end = dirty.end.max(range.end);
            })
            .or_insert(range);
    }

    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty()
    }

    pub fn contains(&self, page: u64) -> bool {
        self.dirty.contains_key(&page)
    }

    pub fn len(&self) -> usize {
        self.dirty.len()
    }

    /// Takes the pages in `range` out: somebody else writes them.
    pub fn take_out(&mut self, range: Range<u64>) {
        self.dirty.retain(|page, _| !range.contains(page));
    }

    /// Writes every dirty range. After an error any of them may have been written: those pages are not cached any more.
    pub fn flush(&mut self, pages: &SlotPages, file: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut dirty = std::mem::take(&mut self.dirty);
        while let Some((number, range)) = dirty.pop_first() {
            let written = pages.load(number, file).and_then(|page| {
                let off = number * BLOCK + range.start as u64;
                pages.note_written(off, range.len());
                backing::write_at(file, &page[range], off)
            });
            if written.is_err() {
                let mut cached = pages.cache.lock();
                cached.remove(&number);
                dirty.keys().for_each(|number| drop(cached.remove(number)));
                return written;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_joined() {
        let mut written = Written::default();
        for range in [10..12, 20..21, 12..14, 5..8, 8..9, 19..22, 0..1] {
            written.add(range);
        }
        assert_eq!(written.ranges(), [0..1, 5..9, 10..14, 19..22]);
        written.add(1..18);
        assert_eq!(written.ranges(), [0..18, 19..22]);
        for n in 0..RANGES_MAX as u64 * 3 {
            written.add(n * 1000..n * 1000 + 1);
        }
        assert!(written.ranges().len() <= RANGES_MAX);
        for n in [0, 7, RANGES_MAX as u64 * 3 - 1] {
            assert!(written.ranges().iter().any(|range| range.contains(&(n * 1000))), "{n}");
        }
    }
}
