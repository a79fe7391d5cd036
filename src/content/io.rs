//! Reading: one `preadv` for a contiguous range, every block verified before it is handed out.

use std::io::IoSliceMut;
use std::ops::Range;

use crate::crypto::hands;
use crate::format::layout::REGION_BLOCKS;

use super::pages::{Page, slot_in};
use super::round::Waiting;
use super::*;

/// Buffers of one thread, page-aligned and never freed: a copy between buffers of unlike alignment costs many times
/// more on some machines.
#[derive(Default)]
pub struct Scratch {
    data: Aligned,
    sealed: Aligned,
    tags: Aligned,
    spare: Aligned,
}

impl Scratch {
    pub fn new() -> Self {
        Self::default()
    }

    /// The first `len` bytes that were read.
    pub fn data(&mut self, len: usize) -> &mut [u8] {
        self.data.slice(len)
    }

    /// `len` bytes for blocks that are sealed; kept while others are read.
    pub(super) fn sealed(&mut self, len: usize) -> &mut [u8] {
        self.sealed.slice(len)
    }

    pub(super) fn spare_page(&mut self) -> &mut [u8] {
        self.spare.slice(BLOCK_LEN)
    }
}

#[derive(Default)]
pub(super) struct Aligned {
    raw: Vec<u8>,
}

impl Aligned {
    pub(super) fn slice(&mut self, len: usize) -> &mut [u8] {
        if self.raw.len() < len + BLOCK_LEN {
            self.raw = vec![0; (len + BLOCK_LEN).next_power_of_two()];
        }
        let at = self.raw.as_ptr().align_offset(BLOCK_LEN);
        &mut self.raw[at..at + len]
    }
}

impl Content {
    /// Reads up to `len` bytes at `off`; gives where in [`Scratch::data`] they lie. Shorter at the end of the file.
    pub fn read_at(&self, off: u64, len: usize, scratch: &mut Scratch) -> Result<Range<usize>> {
        let Some((first, count, range)) = self.span(off, len) else { return Ok(0..0) };
        self.read_blocks(first, count, scratch)?;
        Ok(range)
    }

    /// As [`Self::read_at`], into the caller's memory, without another copy: the bytes lie in `out` where the range says.
    /// `None` if `out` has no room for all blocks that hold some of them; nothing was read then. After an error `out` holds
    /// anything.
    pub fn read_into(
        &self,
        off: u64,
        len: usize,
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<Option<Range<usize>>> {
        let Some((first, count, range)) = self.span(off, len) else { return Ok(Some(0..0)) };
        let Some(data) = out.get_mut(..count * BLOCK_LEN) else { return Ok(None) };
        self.read_blocks_to(first, data, &mut scratch.tags)?;
        Ok(Some(range))
    }

    /// The blocks that hold up to `len` bytes at `off`, and where these lie in them; `None` behind the end.
    fn span(&self, off: u64, len: usize) -> Option<(u64, usize, Range<usize>)> {
        if off >= self.size || len == 0 {
            return None;
        }
        let end = off.saturating_add(len as u64).min(self.size);
        let first = off / BLOCK;
        let start = (off % BLOCK) as usize;
        Some((first, (blocks(end) - first) as usize, start..start + (end - off) as usize))
    }

    /// Reads and verifies `count` whole blocks inside the file into [`Scratch::data`].
    pub(super) fn read_blocks(&self, first: u64, count: usize, scratch: &mut Scratch) -> Result<()> {
        let Scratch { data, tags, .. } = scratch;
        self.read_blocks_to(first, data.slice(count * BLOCK_LEN), tags)
    }

    /// Fills `data`, whole blocks inside the file, and verifies them. All reads of content go through here:
    /// [`Self::read_at`], [`Self::read_into`], the merging of partial blocks, the search for the end after a crash.
    fn read_blocks_to(&self, first: u64, data: &mut [u8], tags: &mut Aligned) -> Result<()> {
        let last = first + (data.len() / BLOCK_LEN) as u64 - 1;
        let cached = self.cached_slot_pages(first, last);
        if let Some(pages) = &cached
            && !self.any_data(first, last, pages)
        {
            data.fill(0);
            return self.open_blocks(first, pages, data);
        }
        let pages = self.read_stored(first, last, cached, data, tags)?;
        self.pages.trim();
        self.open_blocks(first, &pages, data)
    }

    /// The slot pages of the range, if all of them are cached.
    fn cached_slot_pages(&self, first: u64, last: u64) -> Option<Vec<Arc<Page>>> {
        slot_pages(first, last).map(|number| self.pages.cached(number)).collect()
    }

    fn any_data(&self, first: u64, last: u64, pages: &[Arc<Page>]) -> bool {
        each_slot(first, last, pages).any(|(_, slot)| !matches!(slot.shape(), Shape::Empty | Shape::Hole(_)))
            || self.round.first_fill(first..last + 1).is_some()
    }

    /// Fills `data` with the stored pages of the blocks and gives their slot pages, in one read where the slot page of the
    /// first block is cached or lies right before it.
    fn read_stored(
        &self,
        first: u64,
        last: u64,
        cached: Option<Vec<Arc<Page>>>,
        data: &mut [u8],
        tags: &mut Aligned,
    ) -> Result<Vec<Arc<Page>>> {
        let file = self.file.as_fd();
        let count = (last - first + 1) as usize;
        let first_slots = slot_place(first).0;
        let first_page = data_page(first);
        let mut start = first_page;
        if cached.is_none() && self.pages.cached(first_slots).is_none() {
            if first_slots + 1 == first_page {
                start = first_slots;
            } else {
                self.pages.load(first_slots, file)?;
            }
        }
        let gaps = (data_page(last) - start + 1) as usize - count;
        let tags = tags.slice(gaps.max(1) * BLOCK_LEN);
        let mut bufs = Vec::with_capacity(2 * gaps + 1);
        let (mut data_rest, mut tags_rest) = (&mut *data, &mut *tags);
        if start < first_page {
            bufs.push(take(&mut tags_rest, 1));
        }
        for run in runs(first, last) {
            if run.start > first {
                bufs.push(take(&mut tags_rest, (data_page(run.start) - data_page(run.start - 1) - 1) as usize));
            }
            bufs.push(take(&mut data_rest, (run.end - run.start) as usize));
        }
        let want = (data_page(last) - start + 1) as usize * BLOCK_LEN;
        let got = backing::read_vectored_at(file, &mut bufs, start * BLOCK)?;
        if got < want {
            zero_behind(&mut bufs_of(data, tags, first, last, start), got);
        }
        if let Some(pages) = cached {
            return Ok(pages);
        }
        // The pages between the data that hold slots are kept; those that were cached stay as they are.
        let mut read = HashMap::new();
        let mut at = 0;
        if start < first_page {
            read.insert(start, at);
            at += 1;
        }
        for run in runs(first, last).skip(1) {
            for page in data_page(run.start - 1) + 1..data_page(run.start) {
                read.insert(page, at);
                at += 1;
            }
        }
        slot_pages(first, last)
            .map(|number| match (self.pages.cached(number), read.get(&number)) {
                (Some(page), _) => Ok(page),
                (None, Some(&at)) => {
                    let bytes: &Page = tags[at * BLOCK_LEN..][..BLOCK_LEN].try_into().expect("a page");
                    let page = Arc::new(*bytes);
                    self.pages.insert(number, page.clone());
                    Ok(page)
                }
                (None, None) => Ok(self.pages.load(number, file)?),
            })
            .collect()
    }

    /// Section 7's second table, for each block of `data`.
    fn open_blocks(&self, first: u64, pages: &[Arc<Page>], data: &mut [u8]) -> Result<()> {
        let keys = self.keys()?;
        let last = first + (data.len() / BLOCK_LEN) as u64 - 1;
        let opened = self.open_in_parts(keys, first, pages, data);
        for (block, slot) in each_slot(first, last, pages) {
            if opened.get((block - first) as usize) == Some(&true) {
                continue;
            }
            let at = (block - first) as usize * BLOCK_LEN;
            let page = &mut data[at..at + BLOCK_LEN];
            if self.open_waiting(block, page)? {
                continue;
            }
            match slot.shape() {
                Shape::Empty => {
                    if !self.skips(block)? {
                        return Err(ContentError::Missing { block });
                    }
                    page.fill(0);
                }
                Shape::Hole(mark) => {
                    block::verify_hole(&keys.block_key(mark.meta.epoch), block, &mark)
                        .map_err(|_| ContentError::Block { block })?;
                    page.fill(0);
                }
                Shape::Data { newer, older } => {
                    let version = slot.version(newer).expect("the shape named it");
                    let key = keys.block_key(version.meta.epoch);
                    if block::open_block(&key, block, version, page).is_ok() {
                        continue;
                    }
                    if self.open_left(block, version, page)? {
                        continue;
                    }
                    let version = older.and_then(|half| slot.version(half)).ok_or(ContentError::Block { block })?;
                    // The failed attempts have spoilt the page.
                    backing::read_at(self.file.as_fd(), page, data_page(block) * BLOCK)?;
                    let key = keys.block_key(version.meta.epoch);
                    if block::open_block(&key, block, version, page).is_err()
                        && !self.open_left(block, version, page)?
                    {
                        return Err(ContentError::Block { block });
                    }
                    let stored = backing::path_of(self.file.as_fd());
                    tracing::warn!(
                        block,
                        ?stored,
                        "a block reads as its previous version: its newer one does not verify"
                    );
                }
                Shape::Invalid => return Err(ContentError::Slot { block }),
            }
        }
        Ok(())
    }

    /// Opens the blocks of a large request that are simply data, on several cores if some are idle; says which. Another
    /// attempt at one that does not verify fails again. Empty if the request is computed soon enough.
    fn open_in_parts(&self, keys: &Keys, first: u64, pages: &[Arc<Page>], data: &mut [u8]) -> Vec<bool> {
        let count = data.len() / BLOCK_LEN;
        let estimate = keys.current.block_time() * count as u32;
        if !hands::is_long(estimate) {
            return Vec::new();
        }
        let plainly = |(block, slot): (u64, Slot)| match slot.shape() {
            Shape::Data { newer, .. } if self.round.get(block).is_none() => {
                slot.version(newer).map(|version| (keys.block_key(version.meta.epoch), *version))
            }
            _ => None,
        };
        let versions: Vec<_> = each_slot(first, first + count as u64 - 1, pages).map(plainly).collect();
        let mut opened = vec![false; count];
        let all = &mut opened[..];
        hands::share(
            estimate,
            |parts| {
                let each = count.div_ceil(parts);
                let parts = data.chunks_mut(each * BLOCK_LEN).zip(versions.chunks(each)).zip(all.chunks_mut(each));
                (first..).step_by(each).zip(parts).collect()
            },
            |(first, ((data, versions), opened))| {
                let blocks = (first..).zip(data.chunks_exact_mut(BLOCK_LEN).zip(versions)).zip(opened);
                for ((block, (page, version)), opened) in blocks {
                    let Some((key, version)) = version else { continue };
                    *opened = block::open_block(key, block, version, page).is_ok();
                }
            },
        );
        opened
    }

    /// A block whose second half waits reads as it will be: `page` holds the stored page, and then the plaintext.
    fn open_waiting(&self, block: u64, page: &mut [u8]) -> Result<bool> {
        let version = match self.round.get(block) {
            Some(Waiting::Over { version, page: ciphertext, .. }) => {
                page.copy_from_slice(&ciphertext[..]);
                version
            }
            Some(Waiting::Fill { version }) => version,
            Some(Waiting::Punch) | None => return Ok(false),
        };
        let key = self.keys()?.block_key(version.meta.epoch);
        block::open_block(&key, block, version, page).map_err(|_| ContentError::Block { block })?;
        Ok(true)
    }

    /// A version whose page a session that did not end has left in its redo file.
    fn open_left(&self, block: u64, version: &Version, page: &mut [u8]) -> Result<bool> {
        let keys = self.keys()?;
        Ok(self.volume.redo.find(&keys.header.file_id, block, version, page)?
            && block::open_block(&keys.block_key(version.meta.epoch), block, version, page).is_ok())
    }

    /// Whether a slot without a version is a hole.
    pub(super) fn skips(&self, block: u64) -> Result<bool> {
        let Some(group) = Group::of(block) else { return Ok(false) };
        if !self.skipped.sparse() {
            return Ok(false);
        }
        Ok(!self.skipped.complete(group, &self.pages, self.file.as_fd(), &self.keys()?.file.record)?)
    }
}

/// Numbers of the pages that hold the slots of blocks `first..=last`, ascending.
pub(super) fn slot_pages(first: u64, last: u64) -> impl Iterator<Item = u64> {
    let mut next = Some(first);
    std::iter::from_fn(move || {
        let block = next?;
        let end = layout::slot_page_blocks(block).end;
        next = (end <= last).then_some(end);
        Some(slot_place(block).0)
    })
}

/// Every block of the range with its slot; `pages` as [`slot_pages`] numbers them.
fn each_slot(first: u64, last: u64, pages: &[Arc<Page>]) -> impl Iterator<Item = (u64, Slot)> {
    let mut at = 0;
    let mut end = layout::slot_page_blocks(first).end;
    (first..=last).map(move |block| {
        if block == end {
            at += 1;
            end = layout::slot_page_blocks(block).end;
        }
        (block, slot_in(&pages[at], block))
    })
}

/// Runs of blocks of the range whose pages are consecutive.
pub(super) fn runs(first: u64, last: u64) -> impl Iterator<Item = Range<u64>> {
    let mut next = first;
    std::iter::from_fn(move || {
        if next > last {
            return None;
        }
        // Between head blocks and group 0, between groups, and between regions lie pages of slots.
        let mut end = layout::slot_page_blocks(next).end.min(last + 1);
        if next % REGION_BLOCKS + (end - next) > REGION_BLOCKS {
            end = (next / REGION_BLOCKS + 1) * REGION_BLOCKS;
        }
        let run = next..end;
        next = end;
        Some(run)
    })
}

fn take<'a>(rest: &mut &'a mut [u8], pages: usize) -> IoSliceMut<'a> {
    let (head, tail) = std::mem::take(rest).split_at_mut(pages * BLOCK_LEN);
    *rest = tail;
    IoSliceMut::new(head)
}

fn bufs_of<'a>(data: &'a mut [u8], tags: &'a mut [u8], first: u64, last: u64, start: u64) -> Vec<&'a mut [u8]> {
    let (mut data, mut tags) = (data, tags);
    let mut split = |from_tags: bool, pages: usize| {
        let rest = if from_tags { &mut tags } else { &mut data };
        let (head, tail) = std::mem::take(rest).split_at_mut(pages * BLOCK_LEN);
        *rest = tail;
        head
    };
    let mut out = Vec::new();
    if start < data_page(first) {
        out.push(split(true, 1));
    }
    for run in runs(first, last) {
        if run.start > first {
            out.push(split(true, (data_page(run.start) - data_page(run.start - 1) - 1) as usize));
        }
        out.push(split(false, (run.end - run.start) as usize));
    }
    out
}

/// What lies behind the end of the stored file reads as zeros.
fn zero_behind(bufs: &mut [&mut [u8]], got: usize) {
    let mut at = 0;
    for buf in bufs {
        let keep = got.saturating_sub(at).min(buf.len());
        buf[keep..].fill(0);
        at += buf.len();
    }
}
