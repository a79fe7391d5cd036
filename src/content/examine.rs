//! Looking at a stored file without a mount and without stopping at the first fault: for `check` (`docs/FORMAT.md`
//! section 9). Reads only; what is wrong is a value. Section 7's rules are the ones by which [`Content`] reads.

use std::ops::Range;

use crate::format::layout::{REGION_GROUPS, SLOT_LEN};
use crate::format::record::{
    MAP_ALL_COMPLETE, MAP_RECORD_GROUPS, MAP_RECORD_LEN, MAP_RECORDS, MapBits, map_record_from_bytes,
};

use super::io::Aligned;
use super::skipmap::map_page;
use super::*;

/// Pages of slots whose blocks are read in one call: a little more than 1 MiB.
const SLOT_PAGES_PER_READ: usize = 4;

/// The parts of a mount that reading needs, and nothing to write with.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub keys: &'a VolumeKeys,
    pub sessions: &'a Sessions,
    pub redo: &'a Redo,
}

impl Volume {
    pub fn view(&self) -> View<'_> {
        View { keys: &self.keys, sessions: &self.sessions, redo: &self.redo }
    }
}

/// The first page of a stored file.
pub struct Head {
    pub stored_len: u64,
    pub copies: [std::result::Result<FileHeader, HeaderError>; 2],
    page: Box<[u8; BLOCK_LEN]>,
}

impl Head {
    /// Reads the first page. `None` for an empty file.
    ///
    /// # Errors
    /// [`ContentError::Short`], or the backing's.
    pub fn read(keys: &VolumeKeys, file: BorrowedFd<'_>) -> Result<Option<Self>> {
        let mut page = Box::new([0; BLOCK_LEN]);
        let n = backing::read_at(file, &mut page[..], 0)?;
        if n == 0 {
            return Ok(None);
        }
        if n < BLOCK_LEN {
            return Err(ContentError::Short);
        }
        let copy = |n: usize| FileHeader::from_bytes(keys.suite, &keys.header, &page[n * HEADER_LEN..][..HEADER_LEN]);
        let copies = [copy(0), copy(1)];
        Ok(Some(Self { stored_len: backing::stat(file)?.st_size as u64, copies, page }))
    }

    /// The bytes of a copy, valid or not.
    pub fn copy(&self, n: usize) -> &[u8] {
        &self.page[n * HEADER_LEN..][..HEADER_LEN]
    }

    /// Whether both copies are valid and the same: not so after a re-wrap that was cut off.
    pub fn copies_agree(&self) -> bool {
        self.copies[0].is_ok() && self.copy(0) == self.copy(1)
    }

    /// The copy that counts, and its number.
    pub fn header(&self) -> Option<(usize, &FileHeader)> {
        match (&self.copies[0], &self.copies[1]) {
            (Ok(a), Ok(b)) if b.generation > a.generation => Some((1, b)),
            (Ok(a), _) => Some((0, a)),
            (Err(_), Ok(b)) => Some((1, b)),
            (Err(_), Err(_)) => None,
        }
    }

    /// Writes the copy that counts over one that does not verify; its wrapped key was not changed. Gives whether it had to.
    pub fn mend_copies(&self, file: BorrowedFd<'_>) -> Result<bool> {
        let Some((good, _)) = self.header() else { return Ok(false) };
        let other = 1 - good;
        if self.copies[other].is_ok() {
            return Ok(false);
        }
        backing::write_at(file, self.copy(good), (other * HEADER_LEN) as u64)?;
        Ok(true)
    }
}

/// [`Head::read`], for who looks.
pub fn look_at_head(view: View<'_>, file: BorrowedFd<'_>) -> Result<Option<Head>> {
    Head::read(view.keys, file)
}

/// How much of each block is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The slots alone, and the seals of hole marks.
    Slots,
    /// Every block is opened.
    Blocks,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Readable: the page of its newest version lies in a redo file.
    InRedo,
    /// Readable: as the version before its newest.
    Older,
    /// No version verifies.
    Unverified,
    /// The slot is one that no writer makes.
    Slot,
    /// No version, though its group is complete.
    Missing,
    /// The stored file ends before it.
    Cut,
    /// The backing does not read it.
    Unread,
}

impl Trouble {
    pub fn is_readable(self) -> bool {
        matches!(self, Self::InRedo | Self::Older)
    }
}

/// Blocks of a file that something is wrong with.
#[derive(Debug, Default)]
pub struct Troubles {
    /// Ascending in each part that was looked at.
    pub blocks: Vec<(Range<u64>, Trouble)>,
    /// Slots with two versions.
    pub doubles: u64,
    /// Groups that are complete, and whose bit does not say so: lost slots would be holes. A crash leaves such.
    pub unsaid: u64,
    /// Blocks that were looked at, holes included.
    pub seen: u64,
}

impl Troubles {
    pub fn add(&mut self, range: Range<u64>, trouble: Trouble) {
        match self.blocks.last_mut() {
            Some((last, same)) if *same == trouble && last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => self.blocks.push((range, trouble)),
        }
    }

    /// Takes in what was found in other parts of the file.
    pub fn join(&mut self, other: Self) {
        self.blocks.extend(other.blocks);
        self.doubles += other.doubles;
        self.unsaid += other.unsaid;
        self.seen += other.seen;
        self.blocks.sort_by_key(|(range, _)| range.start);
        for (range, trouble) in std::mem::take(&mut self.blocks) {
            self.add(range, trouble);
        }
    }

    /// What cannot be read of a file of `size` bytes.
    pub fn unreadable(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.blocks.iter().filter(|(_, trouble)| !trouble.is_readable()).map(|(range, _)| range.clone())
    }
}

/// Bits of a region's map, and which of its records do not verify.
type RegionBits = ([MapBits; MAP_RECORDS], Vec<usize>);

/// A stored file whose header was verified and whose data key is there.
pub struct Exam<'v> {
    view: View<'v>,
    file: BorrowedFd<'v>,
    keys: Keys,
    /// `None` if it does not verify: sizes are those of the stored length then.
    pub record: Option<Record>,
    pub unsettled: bool,
    /// The record was written by a session that the state file does not know yet.
    pub from_the_future: bool,
    /// In every slot the newer version has to be the good one: no crash explains another.
    pub newest: bool,
    pub stored_len: u64,
    /// Plaintext bytes that the file should have.
    pub size: u64,
    regions: Mutex<HashMap<u64, RegionBits>>,
}

impl<'v> Exam<'v> {
    /// # Errors
    /// [`ContentError::WrongKey`] alone.
    pub fn new(view: View<'v>, file: BorrowedFd<'v>, head: &Head, data_key: &SecretBytes) -> Result<Self> {
        let (_, header) = head.header().ok_or(ContentError::Header(HeaderError::Mac))?;
        if data_key.len() != view.keys.suite.key_len() {
            return Err(ContentError::WrongKey);
        }
        let keys = FileKeys::derive(view.keys.suite, view.keys.volume_id, header.file_id, data_key);
        keys.verify_key_check(&header.key_check).map_err(|_| ContentError::WrongKey)?;
        let record = Record::from_bytes(&keys.record, &head.page[RECORD_AT..RECORD_AT + RECORD_LEN]).ok();
        let mut exam = Self {
            view,
            file,
            keys: Keys::new(header.clone(), keys, record.map_or(0, |record| record.epoch)),
            record,
            unsettled: false,
            from_the_future: false,
            newest: false,
            stored_len: head.stored_len,
            size: layout::plain_len(head.stored_len),
            regions: Mutex::default(),
        };
        if let Some(record) = record {
            exam.from_the_future = !view.sessions.knows(record.session);
            exam.unsettled = view.sessions.standing(record.session) == Standing::Unsettled;
            exam.newest = record.newest && view.sessions.newest_trusted(record.session);
            // Behind the largest size there is nothing to look at, whatever an authentic record says.
            exam.size = record.size.min(MAX_SIZE);
        }
        Ok(exam)
    }

    /// Bytes that the stored file holds, of whole pages.
    pub fn held(&self) -> u64 {
        layout::held(self.stored_len / BLOCK) * BLOCK
    }

    /// Blocks that are there to be looked at.
    pub fn blocks_there(&self) -> u64 {
        blocks(self.size).min(layout::held(self.stored_len / BLOCK))
    }

    /// The next part of the file from `block` on that is worth reading, at most up to `end`: what is skipped before it
    /// has nothing stored and is judged here. Empty at the end.
    pub fn next_part(&self, block: u64, end: u64, found: &mut Troubles) -> Result<Range<u64>> {
        let mut block = block;
        while block < end && self.record.is_none_or(|record| record.sparse) {
            let at = slot_place(block).0;
            let stored = backing::next_data(self.file, at * BLOCK)?.map_or(u64::MAX, |at| at / BLOCK);
            let page_blocks = layout::slot_page_blocks(block);
            if stored <= data_page(page_blocks.end - 1) {
                break;
            }
            // Up to the page of slots that `stored` belongs to.
            let next = layout::held(stored.min(data_page(end - 1) + 1)).min(end);
            let stop =
                if next >= end { end } else { layout::slot_page_blocks(next).start.max(page_blocks.end.min(end)) };
            if self.record.is_none() {
                // Nothing says that a hole may be here. The stored length may be any: not group by group.
                found.seen += stop - block;
                found.add(block..stop, Trouble::Missing);
                block = stop;
            }
            while block < stop {
                let part = block..layout::slot_page_blocks(block).end.min(stop);
                found.seen += part.end - part.start;
                if !self.skips(part.start)? {
                    found.add(part.clone(), Trouble::Missing);
                }
                block = part.end;
            }
        }
        let mut stop = block;
        for _ in 0..SLOT_PAGES_PER_READ {
            if stop < end {
                stop = layout::slot_page_blocks(stop).end.min(end);
            }
        }
        Ok(block..stop)
    }

    /// Looks at blocks from the first of a page of slots on, which the file holds. `sink` gets the plaintext of runs of
    /// blocks that are no holes.
    pub fn look(
        &self,
        part: Range<u64>,
        depth: Depth,
        buf: &mut Buffer,
        found: &mut Troubles,
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let start = slot_place(part.start).0;
        let pages = data_page(part.end - 1) + 1 - start;
        let whole = depth == Depth::Blocks;
        let read = if whole {
            let bytes = buf.0.slice(pages as usize * BLOCK_LEN);
            backing::read_at(self.file, bytes, start * BLOCK).map(|got| bytes[got..].fill(0))
        } else {
            Ok(())
        };
        let mut block = part.start;
        while block < part.end {
            let blocks = block..layout::slot_page_blocks(block).end.min(part.end);
            let count = (blocks.end - blocks.start) as usize;
            if whole && read.is_ok() {
                let at = (slot_place(block).0 - start) as usize * BLOCK_LEN;
                let bytes = &mut buf.0.slice(pages as usize * BLOCK_LEN)[at..at + (1 + count) * BLOCK_LEN];
                self.look_at_page(blocks.clone(), bytes, depth, &[], found, sink)?;
            } else {
                self.look_singly(blocks.clone(), depth, buf, found, sink)?;
            }
            block = blocks.end;
        }
        Ok(())
    }

    /// Where one call for all failed, or only slots are wanted: a page of slots, then each page of data by itself.
    fn look_singly(
        &self,
        blocks: Range<u64>,
        depth: Depth,
        buf: &mut Buffer,
        found: &mut Troubles,
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let count = (blocks.end - blocks.start) as usize;
        let bytes = buf.0.slice((1 + count) * BLOCK_LEN);
        let (slots, data) = bytes.split_at_mut(BLOCK_LEN);
        let read = |page: &mut [u8], number: u64| {
            backing::read_at(self.file, page, number * BLOCK).map(|got| page[got..].fill(0)).is_ok()
        };
        if !read(slots, slot_place(blocks.start).0) {
            found.seen += count as u64;
            found.add(blocks, Trouble::Unread);
            return Ok(());
        }
        let mut unread = Vec::new();
        if depth == Depth::Blocks {
            for (block, page) in blocks.clone().zip(data.chunks_exact_mut(BLOCK_LEN)) {
                if !read(page, data_page(block)) {
                    unread.push(block);
                }
            }
        }
        self.look_at_page(blocks, bytes, depth, &unread, found, sink)
    }

    /// A page of slots with the pages of its blocks behind it.
    fn look_at_page(
        &self,
        blocks: Range<u64>,
        bytes: &mut [u8],
        depth: Depth,
        unread: &[u64],
        found: &mut Troubles,
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (slots, data) = bytes.split_at_mut(BLOCK_LEN);
        let filled = blocks.clone().all(|block| {
            let at = slot_place(block).1;
            Slot::from_bytes(&slots[at..at + SLOT_LEN]).shape() != Shape::Empty
        });
        found.unsaid += u64::from(filled && self.skips(blocks.start)?);
        let mut run: Option<Range<u64>> = None;
        for block in blocks.clone() {
            let at = slot_place(block).1;
            let slot = Slot::from_bytes(&slots[at..at + SLOT_LEN]);
            let page = &mut data[(block - blocks.start) as usize * BLOCK_LEN..][..BLOCK_LEN];
            found.seen += 1;
            let (trouble, is_data) = self.look_at_block(block, &slot, page, depth, unread.contains(&block))?;
            found.doubles += u64::from(matches!(slot.shape(), Shape::Data { older: Some(_), .. }));
            if let Some(trouble) = trouble {
                found.add(block..block + 1, trouble);
            }
            if depth == Depth::Blocks && is_data && trouble.is_none_or(Trouble::is_readable) {
                run = match run {
                    Some(run) if run.end == block => Some(run.start..block + 1),
                    Some(run) => {
                        sink(run.start, &data[span(&blocks, &run)])?;
                        Some(block..block + 1)
                    }
                    None => Some(block..block + 1),
                };
            }
        }
        match run {
            Some(run) => sink(run.start, &data[span(&blocks, &run)]),
            None => Ok(()),
        }
    }

    /// Section 7's second table. Gives what is wrong, and whether the block is data; its plaintext is in `page` then.
    fn look_at_block(
        &self,
        block: u64,
        slot: &Slot,
        page: &mut [u8],
        depth: Depth,
        unread: bool,
    ) -> Result<(Option<Trouble>, bool)> {
        let (newer, older) = match slot.shape() {
            Shape::Empty => return Ok(((!self.skips(block)?).then_some(Trouble::Missing), false)),
            Shape::Hole(mark) => {
                let verified = block::verify_hole(&self.keys.block_key(mark.meta.epoch), block, &mark);
                return Ok((verified.is_err().then_some(Trouble::Unverified), false));
            }
            Shape::Invalid => return Ok((Some(Trouble::Slot), false)),
            Shape::Data { newer, older } => (slot.version(newer), older.and_then(|half| slot.version(half))),
        };
        if depth == Depth::Slots {
            return Ok((None, true));
        }
        for (version, trouble) in [(newer, None), (older, Some(Trouble::Older))] {
            let Some(version) = version else { continue };
            // A failed attempt spoils the page.
            let there = if trouble.is_none() {
                !unread
            } else {
                !unread && backing::read_at(self.file, page, data_page(block) * BLOCK) == Ok(BLOCK_LEN)
            };
            let key = self.keys.block_key(version.meta.epoch);
            if there && block::open_block(&key, block, version, page).is_ok() {
                return Ok((trouble, true));
            }
            if self.view.redo.find(&self.keys.header.file_id, block, version, page)?
                && block::open_block(&key, block, version, page).is_ok()
            {
                return Ok((trouble.or(Some(Trouble::InRedo)), true));
            }
        }
        Ok((Some(if unread { Trouble::Unread } else { Trouble::Unverified }), true))
    }

    /// Map records that cover groups inside the file and do not verify: region and number.
    pub fn bad_maps(&self) -> Result<Vec<(u64, usize)>> {
        let mut bad = Vec::new();
        if !self.record.is_some_and(|record| record.sparse) {
            return Ok(bad);
        }
        let end = self.blocks_there();
        let mut region = 0;
        while let Some(inside) = end.checked_sub(region * layout::REGION_BLOCKS).filter(|&inside| inside > 0) {
            if inside > layout::HEAD_BLOCKS {
                let records = inside.div_ceil(layout::GROUP_BLOCKS).div_ceil(MAP_RECORD_GROUPS) as usize;
                let of_region = self.with_region(region, |(_, bad)| bad.clone())?;
                bad.extend(of_region.into_iter().filter(|&m| m < records).map(|m| (region, m)));
            }
            region += 1;
        }
        Ok(bad)
    }

    /// Whether a slot without a version is a hole.
    fn skips(&self, block: u64) -> Result<bool> {
        let sparse = self.record.is_some_and(|record| record.sparse);
        let Some(group) = Group::of(block).filter(|_| sparse) else { return Ok(false) };
        let j = group.0 % REGION_GROUPS;
        self.with_region(group.region(), |(bits, _)| {
            let bit = (j % MAP_RECORD_GROUPS) as usize;
            bits[(j / MAP_RECORD_GROUPS) as usize][bit / 8] & (1 << (bit % 8)) == 0
        })
    }

    fn with_region<T>(&self, region: u64, look: impl FnOnce(&RegionBits) -> T) -> Result<T> {
        let mut regions = self.regions.lock();
        if let Some(bits) = regions.get(&region) {
            return Ok(look(bits));
        }
        let mut page = [0; BLOCK_LEN];
        backing::read_at(self.file, &mut page, map_page(region) * BLOCK)?;
        let mut bad = Vec::new();
        let bits = std::array::from_fn(|m| {
            let at = m * MAP_RECORD_LEN;
            map_record_from_bytes(&self.keys.file.record, region, m, &page[at..at + MAP_RECORD_LEN]).unwrap_or_else(
                |_| {
                    bad.push(m);
                    MAP_ALL_COMPLETE
                },
            )
        });
        // A file with a hole of 2^46 bytes has 2^16 regions of 512 bytes here.
        Ok(look(regions.entry(region).or_insert((bits, bad))))
    }

    /// Whether the bytes behind the last page are zeros, as they have to be.
    pub fn tail_is_empty(&self) -> Result<bool> {
        let mut tail = [0; BLOCK_LEN];
        let n = (self.stored_len % BLOCK) as usize;
        backing::read_at(self.file, &mut tail[..n], self.stored_len - n as u64)?;
        Ok(tail.iter().all(|&b| b == 0))
    }
}

fn span(blocks: &Range<u64>, run: &Range<u64>) -> Range<usize> {
    (run.start - blocks.start) as usize * BLOCK_LEN..(run.end - blocks.start) as usize * BLOCK_LEN
}

/// What one thread reads into.
#[derive(Default)]
pub struct Buffer(Aligned);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_that_touch_are_one_range() {
        let mut found = Troubles::default();
        for block in [3, 4, 5, 7] {
            found.add(block..block + 1, Trouble::Unverified);
        }
        found.add(8..9, Trouble::Slot);
        let mut other = Troubles::default();
        other.add(6..7, Trouble::Unverified);
        other.add(0..2, Trouble::Older);
        found.join(other);
        assert_eq!(found.blocks, [(0..2, Trouble::Older), (3..8, Trouble::Unverified), (8..9, Trouble::Slot)]);
        assert_eq!(found.unreadable().collect::<Vec<_>>(), [3..8, 8..9]);
    }
}
