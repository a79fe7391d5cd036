//! Writing: sealing blocks and issuing what belongs to them (`docs/FORMAT.md` section 8).
//!
//! The order of the calls is the one of section 8's table. Blocks at risk are changed in two halves, of which the second
//! waits in the file's round. For all others, in durability `fast` for all, the second half follows the first at once:
//! where a block with data is overwritten, slot goes before page, so that a daemon that dies between them leaves the
//! older version good; where a hole is filled, page goes before slot.

use std::ops::Range;

use crate::crypto::aead::Tag;
use crate::crypto::hands;
use crate::durable::redo::Place;
use crate::format::block::{Kind, VERSION_LEN};
use crate::format::layout::SLOT_LEN;

use super::io::{runs, slot_pages};
use super::pages::slot_in;
use super::round::Waiting;
use super::*;

/// Full blocks of a write that were sealed before the content's lock was taken, under a guess of what each block's
/// version will say. [`Content::write_at`] uses what still fits.
#[derive(Debug)]
pub struct Sealed {
    first: u64,
    versions: Vec<Version>,
}

/// How blocks are written: one call to the backing has only one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// Not at risk: at once.
    Fresh,
    /// At risk, data over data: slots and redo file first, pages later.
    Over,
    /// At risk, data over holes: pages first, slots later.
    Fill,
}

impl Run {
    fn of(at_risk: bool, data: bool) -> Self {
        match (at_risk, data) {
            (false, _) => Self::Fresh,
            (true, true) => Self::Over,
            (true, false) => Self::Fill,
        }
    }
}

/// What one run of a write puts where.
struct Request<'a> {
    off: u64,
    data: &'a [u8],
    range: Range<u64>,
    /// The plaintext of blocks that `data` does not cover whole.
    edges: &'a [(u64, Vec<u8>)],
}

impl Request<'_> {
    fn edge(&self, block: u64) -> Option<&[u8]> {
        self.edges.iter().find(|(edge, _)| *edge == block).map(|(_, plain)| &plain[..])
    }

    /// The whole plaintext of a block.
    fn plain(&self, block: u64) -> &[u8] {
        self.edge(block).unwrap_or_else(|| &self.data[(block * BLOCK - self.off) as usize..][..BLOCK_LEN])
    }

    /// The version of a block that was sealed ahead under the right guess.
    fn sealed_ahead(&self, block: u64, meta: Meta, sealed: &Option<Sealed>) -> Option<Version> {
        let sealed = sealed.as_ref().filter(|_| self.edge(block).is_none())?;
        let version = sealed.versions.get(block.checked_sub(sealed.first)? as usize)?;
        (version.meta == meta).then_some(*version)
    }
}

impl Content {
    /// Seals the full blocks of a write into `scratch`, at the places [`Self::write_at`] wants them. Takes the lock
    /// shared. `None` where there is nothing to gain or no key yet.
    pub fn seal_ahead(&self, off: u64, data: &[u8], scratch: &mut Scratch) -> Option<Sealed> {
        let end = off.checked_add(data.len() as u64)?;
        let (first, full) = (off.div_ceil(BLOCK), off.div_ceil(BLOCK)..end / BLOCK);
        if full.end <= full.start || !self.newest {
            return None;
        }
        let keys = self.keys.as_ref()?;
        let key = keys.current.clone();
        // First every guess, then the seals: none is made in vain because a page is missing half-way.
        let guesses: Vec<u8> = full.clone().map(|block| self.guess_seq(block)).collect::<Option<_>>()?;
        let mut nonces = Nonces::for_request();
        let all = off / BLOCK;
        let buf = scratch.sealed((blocks(end) - all) as usize * BLOCK_LEN);
        let buf = &mut buf[(first - all) as usize * BLOCK_LEN..][..guesses.len() * BLOCK_LEN];
        let data = &data[(first * BLOCK - off) as usize..][..buf.len()];
        let meta = |seq| Meta { epoch: keys.epoch, kind: Kind::Data, seq };
        let unsealed = |seq| Version { nonce: nonces.take(), tag: Tag::default(), meta: meta(seq) };
        let mut versions: Vec<Version> = guesses.into_iter().map(unsealed).collect();
        let all = &mut versions[..];
        hands::share(
            key.block_time() * all.len() as u32,
            |parts| {
                let each = all.len().div_ceil(parts);
                let pages = buf.chunks_mut(each * BLOCK_LEN).zip(data.chunks(each * BLOCK_LEN));
                (first..).step_by(each).zip(all.chunks_mut(each).zip(pages)).collect()
            },
            |(first, (versions, (buf, data)))| {
                let pages = buf.chunks_exact_mut(BLOCK_LEN).zip(data.chunks_exact(BLOCK_LEN));
                for ((block, version), (page, data)) in (first..).zip(versions).zip(pages) {
                    page.copy_from_slice(data);
                    *version = block::seal_with(&key, block, version.meta, version.nonce, page);
                }
            },
        );
        Some(Sealed { first, versions })
    }

    /// The seq that the next version of `block` will have, as far as the cached slots tell.
    fn guess_seq(&self, block: u64) -> Option<u8> {
        if block >= blocks(self.size) {
            return Some(0);
        }
        if let Some((version, _)) = self.round.over(block) {
            return Some(version.meta.seq);
        }
        let page = self.pages.cached(slot_place(block).0)?;
        let slot = slot_in(&page, block);
        Some(match slot.shape() {
            Shape::Data { newer, .. } => slot.version(newer).expect("the shape named it").meta.seq.wrapping_add(1),
            _ => 0,
        })
    }

    /// Writes `data` at `off`. After an error the file reads as before, or as after in whole blocks of the range.
    ///
    /// # Errors
    /// [`ContentError::NoKey`] where the file needs its first key: nothing has changed. [`ContentError::TooBig`].
    /// A block that is only partly overwritten and does not verify. [`ContentError::RedoFull`].
    pub fn write_at(&mut self, off: u64, data: &[u8], scratch: &mut Scratch, sealed: Option<Sealed>) -> Result<()> {
        let volume = self.volume.clone();
        let _change = volume.sessions.change();
        let end = off.checked_add(data.len() as u64).filter(|&end| end <= MAX_SIZE).ok_or(ContentError::TooBig)?;
        if data.is_empty() {
            return Ok(());
        }
        self.keys()?;
        self.look_at_age();
        if let Some(sealed) = &sealed {
            self.reserve_seals(sealed.versions.len() as u64)?;
        }
        if end > self.size {
            self.before_growth(scratch)?;
        }
        let last = (end - 1) / BLOCK;
        if self.round.must_end_before(off / BLOCK..last + 1) {
            self.end_round()?;
        }
        let (start, mut off) = (off, off);
        let mut data = data;
        let mut sealed = sealed;
        loop {
            let (kind, mut stop) = self.next_run(off / BLOCK, last)?;
            let mut places = Vec::new();
            if kind == Run::Over {
                let blocks = (stop - off / BLOCK) as usize;
                places = match self.volume.redo.take(blocks, self.volume.sessions.current()) {
                    Err(RedoError::Full) => return Err(ContentError::RedoFull { written: (off - start) as usize }),
                    other => other?,
                };
                stop = off / BLOCK + places.len() as u64;
            }
            if stop > last {
                return self.write_run(kind, places, off, data, scratch, sealed);
            }
            let (head, tail) = data.split_at((stop * BLOCK - off) as usize);
            // What was sealed ahead lies in the buffer at the whole request's places.
            sealed = None;
            self.write_run(kind, places, off, head, scratch, None)?;
            (off, data) = (stop * BLOCK, tail);
        }
    }

    /// The blocks from `first` on that are written in one way, and where they end: at most behind `last`.
    fn next_run(&self, first: u64, last: u64) -> Result<(Run, u64)> {
        let (risk, inside) = (self.risk_blocks(), blocks(self.size.min(self.recorded)));
        let end = (last + 1).min(if first < risk { risk } else { inside });
        let mut kind = None;
        let mut block = first;
        while block < end {
            let page = self.pages.load(slot_place(block).0, self.file.as_fd())?;
            for block in block..layout::slot_page_blocks(block).end.min(end) {
                let data = matches!(slot_in(&page, block).shape(), Shape::Data { .. });
                if *kind.get_or_insert(data) != data {
                    return Ok((Run::of(first < risk, !data), block));
                }
            }
            block = layout::slot_page_blocks(block).end;
        }
        // Behind the end the kind is that of what is before it.
        let stop = if first < risk { end } else { last + 1 };
        Ok((Run::of(first < risk, kind == Some(true)), stop))
    }

    fn write_run(
        &mut self,
        kind: Run,
        places: Vec<Place>,
        off: u64,
        data: &[u8],
        scratch: &mut Scratch,
        sealed: Option<Sealed>,
    ) -> Result<()> {
        let end = off + data.len() as u64;
        let range = off / BLOCK..(end - 1) / BLOCK + 1;
        let ahead = sealed.as_ref().map_or(0, |sealed| sealed.versions.len() as u64);
        let edges = self
            .edges(off, data, end, scratch)
            .and_then(|edges| self.reserve_seals((range.end - range.start).saturating_sub(ahead)).map(|()| edges));
        let edges = match edges {
            Ok(edges) => edges,
            Err(e) => {
                self.volume.redo.free(places);
                return Err(e);
            }
        };
        let request = Request { off, data, range, edges: &edges };
        self.write_blocks(kind, places, &request, end.max(self.size), scratch, sealed)
    }

    /// Writes a block that is inside the file and was read once more, with the same end.
    pub(super) fn write_again(&mut self, block: u64, plain: Vec<u8>, scratch: &mut Scratch) -> Result<()> {
        self.reserve_seals(1)?;
        if self.round.must_end_before(block..block + 1) {
            self.end_round()?;
        }
        let (kind, _) = self.next_run(block, block)?;
        let places = match kind {
            Run::Over => self.volume.redo.take(1, self.volume.sessions.current())?,
            Run::Fill | Run::Fresh => Vec::new(),
        };
        let request = Request { off: block * BLOCK, data: &[], range: block..block + 1, edges: &[(block, plain)] };
        self.write_blocks(kind, places, &request, self.size, scratch, None)
    }

    fn write_blocks(
        &mut self,
        kind: Run,
        places: Vec<Place>,
        request: &Request<'_>,
        new_size: u64,
        scratch: &mut Scratch,
        sealed: Option<Sealed>,
    ) -> Result<()> {
        let written = match kind {
            Run::Fresh => {
                let written = self.issue(request, new_size, scratch, sealed);
                if written.is_err() {
                    self.after_failure();
                }
                written
            }
            Run::Over => self.overwrite(places, request, scratch, sealed).and_then(|()| self.finish_inside(new_size)),
            Run::Fill => self.fill(request, scratch, sealed).and_then(|()| self.finish_inside(new_size)),
        };
        self.pages.trim();
        written
    }

    /// After the first half of a change at risk: the file may end later inside its last block.
    fn finish_inside(&mut self, new_size: u64) -> Result<()> {
        self.finish(new_size, false, false, false)
    }

    /// First half of data over data: the ciphertext in the redo file, the version in the slot. After an error each block
    /// has its old or its new content, and reads so.
    fn overwrite(
        &mut self,
        places: Vec<Place>,
        request: &Request<'_>,
        scratch: &mut Scratch,
        sealed: Option<Sealed>,
    ) -> Result<()> {
        self.look_at_tail(request.range.clone(), scratch);
        let count = (request.range.end - request.range.start) as usize;
        let mut versions = Vec::with_capacity(count);
        let first_half = self.issue_overwrite(&places, request, scratch, sealed, &mut versions);
        if first_half.is_err() {
            for number in slot_pages(request.range.start, request.range.end - 1) {
                self.pages.forget(number);
            }
            self.distrust_slots();
        }
        let mut free = Vec::new();
        for (n, (&(version, half), &place)) in versions.iter().zip(&places).enumerate() {
            let block = request.range.start + n as u64;
            let in_slot = first_half.is_ok()
                || self
                    .pages
                    .load(slot_place(block).0, self.file.as_fd())
                    .is_ok_and(|page| slot_in(&page, block).version(half) == Some(&version));
            if in_slot {
                let page = scratch.sealed(count * BLOCK_LEN)[n * BLOCK_LEN..][..BLOCK_LEN].into();
                self.wait_for_barrier(block, Waiting::Over { version, half, page, place });
            } else {
                free.push(place);
            }
        }
        free.extend(&places[versions.len()..]);
        self.volume.redo.free(free);
        first_half
    }

    fn issue_overwrite(
        &mut self,
        places: &[Place],
        request: &Request<'_>,
        scratch: &mut Scratch,
        sealed: Option<Sealed>,
        versions: &mut Vec<(Version, usize)>,
    ) -> Result<()> {
        let (mut nonces, mut edit) = (Nonces::for_request(), Edit::default());
        self.seal_range(request, scratch, sealed, &mut nonces, &mut edit, Some(versions))?;
        let file_id = self.keys()?.header.file_id;
        let sealed = &*scratch.sealed(versions.len() * BLOCK_LEN);
        let blocks = (request.range.start..).zip(versions.iter()).zip(sealed.chunks_exact(BLOCK_LEN));
        let volume = self.volume.clone();
        volume.redo.write(places, file_id, blocks.map(|((block, &(version, _)), page)| (block, version, page)))?;
        Ok(edit.flush(&self.pages, self.file.as_fd())?)
    }

    /// First half of data over holes: the pages. After an error a block has its old or its new content, and reads so.
    fn fill(&mut self, request: &Request<'_>, scratch: &mut Scratch, sealed: Option<Sealed>) -> Result<()> {
        self.look_at_tail(request.range.clone(), scratch);
        for number in slot_pages(request.range.start, request.range.end - 1) {
            // The second half may find no space for the slots of a group that was never written: nobody would be told.
            if self.pages.load(number, self.file.as_fd())?.iter().all(|&byte| byte == 0) {
                backing::reserve(self.file.as_fd(), number * BLOCK, BLOCK)?;
            }
        }
        let versions = self.seal_fills(request, scratch, sealed)?;
        let (first, last) = (request.range.start, request.range.end - 1);
        let data = &*scratch.sealed(versions.len() * BLOCK_LEN);
        let mut written = Ok(());
        for run in runs(first, last) {
            let bytes = &data[(run.start - first) as usize * BLOCK_LEN..(run.end - first) as usize * BLOCK_LEN];
            written = self.write_data(bytes, run.start);
            if written.is_err() {
                break;
            }
        }
        for (block, version) in request.range.clone().zip(versions) {
            // Where a page was written in vain, the block is the hole that its slot says; one that waited already may
            // have lost its page.
            if written.is_ok() || self.page_matches(block, &version, scratch).unwrap_or(false) {
                self.wait_for_barrier(block, Waiting::Fill { version });
            } else if let Some(Waiting::Fill { version }) = self.round.get(block) {
                match self.page_matches(block, &{ *version }, scratch) {
                    Ok(true) => {}
                    Ok(false) => self.wait_no_more(block),
                    // It is looked at before the next barrier, and told if it is lost.
                    Err(_) => self.doubts.again = true,
                }
            }
        }
        Ok(written?)
    }

    /// Seals the blocks of `request`, which are holes, into `scratch`.
    fn seal_fills(&self, request: &Request<'_>, scratch: &mut Scratch, sealed: Option<Sealed>) -> Result<Vec<Version>> {
        let keys = self.keys()?;
        let meta = Meta { epoch: keys.epoch, kind: Kind::Data, seq: 0 };
        let mut nonces = Nonces::for_request();
        let len = (request.range.end - request.range.start) as usize * BLOCK_LEN;
        let seal = |block: u64| match request.sealed_ahead(block, meta, &sealed) {
            Some(version) => version,
            None => {
                let page = &mut scratch.sealed(len)[(block - request.range.start) as usize * BLOCK_LEN..][..BLOCK_LEN];
                page.copy_from_slice(request.plain(block));
                block::seal_block(&keys.current, block, meta, &mut nonces, page)
            }
        };
        Ok(request.range.clone().map(seal).collect())
    }

    /// Before the last block, at risk, gets a new version: whether the durable one has zeros behind the file's end is
    /// not to be seen any more after (rule 4 (b)).
    fn look_at_tail(&mut self, range: Range<u64>, scratch: &mut Scratch) {
        let (last, inside) = (self.size / BLOCK, (self.size % BLOCK) as usize);
        if inside == 0 || !range.contains(&last) || self.tail_zero.is_some() {
            return;
        }
        let read = self.read_blocks(last, 1, scratch);
        self.tail_zero = Some(read.is_err() || scratch.data(BLOCK_LEN)[inside..].iter().all(|&b| b == 0));
    }

    /// The plaintext of the blocks that the write covers in part: the first, the last, or both.
    fn edges(&self, off: u64, data: &[u8], end: u64, scratch: &mut Scratch) -> Result<Vec<(u64, Vec<u8>)>> {
        let (first, last) = (off / BLOCK, (end - 1) / BLOCK);
        let mut out = Vec::new();
        for block in if first == last { vec![first] } else { vec![first, last] } {
            let (start, stop) = (block * BLOCK, (block + 1) * BLOCK);
            if off <= start && end >= stop {
                continue;
            }
            let mut plain = vec![0; BLOCK_LEN];
            // What covers all that the file has of this block needs no reading.
            if start < self.size && !(off <= start && end >= self.size) {
                self.read_blocks(block, 1, scratch)?;
                let inside = (self.size - start).min(BLOCK) as usize;
                plain[..inside].copy_from_slice(&scratch.data(BLOCK_LEN)[..inside]);
            }
            let (from, to) = (off.max(start), end.min(stop));
            plain[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&data[(from - off) as usize..(to - off) as usize]);
            out.push((block, plain));
        }
        Ok(out)
    }

    /// Seals and writes blocks that are not at risk, and all that belongs to them: marks, slots, map, record, length.
    fn issue(
        &mut self,
        request: &Request<'_>,
        new_size: u64,
        scratch: &mut Scratch,
        sealed: Option<Sealed>,
    ) -> Result<()> {
        let range = &request.range;
        let mut nonces = Nonces::for_request();
        let new_file = self.stored_len == 0;
        let mut edit = Edit::default();
        if new_file {
            self.stage_header(&mut edit)?;
        }
        let becomes_sparse = self.enter(new_size, Some(range.clone()), &mut nonces, &mut edit)?;
        let slots_first = self.seal_range(request, scratch, sealed, &mut nonces, &mut edit, None)?;
        let completed = self.complete_groups(range.clone(), new_size, &mut nonces, &mut edit)?;
        let old_size = self.size;
        if new_file {
            // One write from the head page on: a new file's record may go with it, for its end is told by its length.
            self.size = new_size;
            if let Err(e) = self.stage_record() {
                self.size = old_size;
                return Err(e);
            }
            edit.touch(0, RECORD_AT..RECORD_AT + RECORD_LEN);
        }
        let issued = self.write_pages(range.clone(), slots_first, edit, scratch);
        self.size = old_size;
        issued?;
        self.skipped.slots_are_written();
        self.stored_len = self.stored_len.max((data_page(range.end - 1) + 1) * BLOCK);
        self.finish(new_size, becomes_sparse, completed, new_file)
    }

    /// After the data and its slots: map bits, record, stored length.
    pub(super) fn finish(&mut self, new_size: u64, became_sparse: bool, completed: bool, recorded: bool) -> Result<()> {
        self.write_map(new_size, completed)?;
        let old = self.size;
        if new_size != old {
            self.size = new_size;
            if recorded && !became_sparse {
                self.record_was_written();
            } else if let Err(e) = self.write_record() {
                self.size = old;
                // What was written may lie behind the end.
                self.tail_zero = None;
                return Err(e);
            }
            self.tail_zero = Some(true);
        } else if self.record_stale {
            self.write_record()?;
        }
        let set = self.set_stored_len(stored_len(self.size));
        if set.is_err() && new_size != old {
            // Once its session has ended, a record that says more than the file has would make the file one that was cut.
            self.size = old;
            self.tail_zero = None;
            if self.write_record().is_err() {
                self.doubts.unrecorded = true;
            }
        }
        set
    }

    /// Writes the map of a sparse file where it changed. If groups were `completed` they may have been the last.
    pub(super) fn write_map(&mut self, size: u64, completed: bool) -> Result<()> {
        if !self.skipped.sparse() {
            return Ok(());
        }
        let file = self.file.clone();
        let key = self.keys()?.file.record.clone();
        let mut map = Edit::default();
        let staged = self.skipped.stage(size, &mut self.pages, file.as_fd(), &key, &mut map);
        if let Err(e) = staged.and_then(|()| map.flush(&self.pages, file.as_fd())) {
            self.skipped.all_stale();
            return Err(e.into());
        }
        if completed && self.skipped.settle(size, &self.pages, file.as_fd(), &key)? {
            self.record_stale = true;
        }
        Ok(())
    }

    /// Both header copies of a new file, in a fresh head page.
    pub(super) fn stage_header(&mut self, edit: &mut Edit) -> Result<()> {
        let bytes = self.keys()?.header.to_bytes(self.volume.keys.suite, &self.volume.keys.header)?;
        self.pages.fresh(0);
        let page = self.pages.load_mut(0, self.file.as_fd())?;
        page[..HEADER_LEN].copy_from_slice(&bytes);
        page[HEADER_LEN..2 * HEADER_LEN].copy_from_slice(&bytes);
        edit.touch(0, 0..2 * HEADER_LEN);
        Ok(())
    }

    /// Seals every block of `request` into `scratch` and puts its version into its slot. True if some block inside the
    /// file has data, whose slot has to be written before its page. Where the pages wait, `waiting` gets versions and halves.
    fn seal_range(
        &mut self,
        request: &Request<'_>,
        scratch: &mut Scratch,
        sealed: Option<Sealed>,
        nonces: &mut Nonces,
        edit: &mut Edit,
        mut waiting: Option<&mut Vec<(Version, usize)>>,
    ) -> Result<bool> {
        let range = request.range.clone();
        let keys = self.keys()?;
        let (key, epoch) = (keys.current.clone(), keys.epoch);
        let len = (range.end - range.start) as usize * BLOCK_LEN;
        let mut overwrites = false;
        let mut again = 0;
        for block in range.clone() {
            let (number, at) = slot_place(block);
            let slot = Slot::from_bytes(&self.pages.load(number, self.file.as_fd())?[at..at + SLOT_LEN]);
            let good = self.good_half(block, &slot, scratch)?;
            let (half, seq) = match good {
                Some(good) => {
                    overwrites = true;
                    (1 - good, slot.version(good).expect("good_half names a version").meta.seq.wrapping_add(1))
                }
                None => (0, 0),
            };
            let meta = Meta { epoch, kind: Kind::Data, seq };
            let version = match request.sealed_ahead(block, meta, &sealed) {
                Some(version) => version,
                None => {
                    again += u32::from(sealed.is_some() && request.edge(block).is_none());
                    let page = &mut scratch.sealed(len)[(block - range.start) as usize * BLOCK_LEN..][..BLOCK_LEN];
                    page.copy_from_slice(request.plain(block));
                    block::seal_block(&key, block, meta, nonces, page)
                }
            };
            let page = self.pages.load_mut(number, self.file.as_fd())?;
            if good.is_none() {
                page[at..at + SLOT_LEN].fill(0);
            }
            page[at + half * VERSION_LEN..][..VERSION_LEN].copy_from_slice(&version.to_bytes());
            edit.touch(number, at..at + SLOT_LEN);
            match &mut waiting {
                Some(waiting) => waiting.push((version, half)),
                None if !self.newest => drop(self.good.insert(block, half)),
                None => {}
            }
        }
        // Blocks whose guess was wrong were sealed twice.
        self.seals = self.seals.saturating_add(again);
        Ok(overwrites)
    }

    /// Groups that `range` writes into and that are new or have skipped slots: those slots get marks, and the group
    /// is complete. True if some group became complete that counts as skipped.
    pub(super) fn complete_groups(
        &mut self,
        range: Range<u64>,
        new_size: u64,
        nonces: &mut Nonces,
        edit: &mut Edit,
    ) -> Result<bool> {
        let (old, new) = (blocks(self.size), blocks(new_size));
        let key = self.keys()?.file.record.clone();
        let mut completed = false;
        let mut block = range.start;
        while block < range.end {
            let page_blocks = layout::slot_page_blocks(block);
            let Some(group) = Group::of(block) else {
                block = page_blocks.end;
                continue;
            };
            block = group.end_block();
            let begun = group.first_block() < old;
            let complete = self.skipped.complete(group, &self.pages, self.file.as_fd(), &key)?;
            let new_group = !begun;
            if complete && !new_group {
                continue;
            }
            for member in group.first_block()..group.end_block().min(new) {
                if range.contains(&member) {
                    continue;
                }
                let (number, at) = slot_place(member);
                let slot = Slot::from_bytes(&self.pages.load(number, self.file.as_fd())?[at..at + SLOT_LEN]);
                if slot == Slot::EMPTY {
                    self.reserve_seals(1)?;
                    self.put_mark(member, 0, nonces, edit)?;
                }
            }
            if self.skipped.sparse() {
                self.skipped.completes(group);
                if self.at_risk(group.first_block()) {
                    self.skipped.delay(group, self.round.stamp());
                }
                completed |= begun || !complete;
            }
        }
        Ok(completed)
    }

    /// A hole mark, alone in its slot, in the cached page.
    pub(super) fn put_mark(&mut self, block: u64, seq: u8, nonces: &mut Nonces, edit: &mut Edit) -> Result<()> {
        let keys = self.keys()?;
        let mark = block::seal_hole(&keys.current, block, keys.epoch, seq, nonces);
        let (number, at) = slot_place(block);
        let page = self.pages.load_mut(number, self.file.as_fd())?;
        page[at..at + SLOT_LEN].fill(0);
        page[at..at + VERSION_LEN].copy_from_slice(&mark.to_bytes());
        edit.touch(number, at..at + SLOT_LEN);
        self.good.remove(&block);
        Ok(())
    }

    /// The ciphertext of `range` from `scratch` and the slots of `edit`, in one call where they are contiguous.
    fn write_pages(
        &mut self,
        range: Range<u64>,
        slots_first: bool,
        mut edit: Edit,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let file = self.file.clone();
        let (first, last) = (range.start, range.end - 1);
        let inside = first < blocks(self.size.min(self.recorded));
        let data = &*scratch.sealed((range.end - range.start) as usize * BLOCK_LEN);
        if inside && !slots_first {
            // Holes inside the file are filled: no slot may name a page before it is there.
            for run in runs(first, last) {
                let bytes = &data[(run.start - first) as usize * BLOCK_LEN..(run.end - first) as usize * BLOCK_LEN];
                self.write_data(bytes, run.start)?;
            }
            return Ok(edit.flush(&self.pages, file.as_fd())?);
        }
        let mut start = data_page(first);
        let before = slot_place(first).0;
        if before + 1 == start && edit.contains(before) {
            start = before;
        }
        let within: Vec<(u64, Arc<pages::Page>)> = slot_pages(first, last)
            .filter(|&number| number >= start && edit.contains(number))
            .map(|number| Ok((number, self.pages.load(number, file.as_fd())?)))
            .collect::<Result<_>>()?;
        edit.take_out(start..data_page(last) + 1);
        edit.flush(&self.pages, file.as_fd())?;
        let mut bufs = Vec::new();
        let mut at = start;
        let mut within = within.iter().peekable();
        for run in runs(first, last) {
            while at < data_page(run.start) {
                match within.peek() {
                    Some((number, page)) if *number == at => {
                        bufs.push(IoSlice::new(&page[..]));
                        within.next();
                    }
                    _ => {
                        // A page between that has nothing to write: end this call here.
                        self.write_bufs(&mut bufs, at)?;
                    }
                }
                at += 1;
            }
            bufs.push(IoSlice::new(
                &data[(run.start - first) as usize * BLOCK_LEN..(run.end - first) as usize * BLOCK_LEN],
            ));
            at += run.end - run.start;
        }
        self.write_bufs(&mut bufs, at)
    }

    /// Ciphertext of consecutive pages, from that of `first` on.
    fn write_data(&self, bytes: &[u8], first: u64) -> backing::Result<()> {
        let off = data_page(first) * BLOCK;
        self.pages.note_written(off, bytes.len());
        backing::write_at(self.file.as_fd(), bytes, off)
    }

    /// Pages up to `end_page`, which empties `bufs`.
    fn write_bufs(&self, bufs: &mut Vec<IoSlice<'_>>, end_page: u64) -> Result<()> {
        if bufs.is_empty() {
            return Ok(());
        }
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        let start = end_page * BLOCK - len as u64;
        self.pages.note_written(start, len);
        backing::write_vectored_at(self.file.as_fd(), bufs, start)?;
        bufs.clear();
        Ok(())
    }

    /// A write failed: what is stored is one of old and new in each place, and only looking tells.
    pub(super) fn after_failure(&mut self) {
        self.pages.clear();
        self.good.clear();
        self.distrust_slots();
        self.slots_behind = true;
        self.tail_zero = None;
        self.skipped.take_back();
        self.skipped.all_stale();
        if self.recorded == 0 && self.size == 0 {
            // The first write of a new file: take it back, so that the file is empty again.
            if backing::set_len(self.file.as_fd(), 0).is_ok() {
                self.start_over();
            }
        } else if let Ok(stat) = backing::stat(self.file.as_fd()) {
            self.stored_len = stat.st_size as u64;
        }
    }

    /// The state of a file of stored length 0; its key is kept.
    pub(super) fn start_over(&mut self) {
        self.size = 0;
        self.recorded = 0;
        self.synced = 0;
        self.risk = 0;
        self.abandon_round();
        self.stored_len = 0;
        self.newest = true;
        self.record_stale = false;
        self.tail_zero = Some(true);
        self.slots_behind = false;
        self.cuts += 1;
        self.cuts_synced = self.cuts;
        self.good.clear();
        self.pages.clear();
        self.skipped = SkipMap::default();
    }
}
