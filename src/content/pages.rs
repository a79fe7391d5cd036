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
#[derive(Default)]
pub struct SlotPages(Mutex<HashMap<u64, Arc<Page>>>);

impl SlotPages {
    pub fn cached(&self, number: u64) -> Option<Arc<Page>> {
        self.0.lock().get(&number).cloned()
    }

    pub fn insert(&self, number: u64, page: Arc<Page>) {
        self.0.lock().insert(number, page);
    }

    /// Forgets pages beyond the number that is kept. Only where no edit is under way: what is dirty is not cached twice.
    pub fn trim(&self) {
        let mut map = self.0.lock();
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
        Ok(Arc::make_mut(self.0.get_mut().get_mut(&number).expect("loaded above")))
    }

    /// A page that the file does not have yet.
    pub fn fresh(&mut self, number: u64) {
        self.insert(number, Arc::new([0; BLOCK_LEN]));
    }

    pub fn forget(&mut self, number: u64) {
        self.0.get_mut().remove(&number);
    }

    pub fn forget_from(&mut self, first: u64) {
        self.0.get_mut().retain(|&number, _| number < first);
    }

    pub fn clear(&mut self) {
        self.0.get_mut().clear();
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
            let written = pages
                .load(number, file)
                .and_then(|page| backing::write_at(file, &page[range.clone()], number * BLOCK + range.start as u64));
            if written.is_err() {
                let mut cached = pages.0.lock();
                cached.remove(&number);
                dirty.keys().for_each(|number| drop(cached.remove(number)));
                return written;
            }
        }
        Ok(())
    }
}
