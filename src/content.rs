//! The plaintext view of one stored file: read, write, length, holes (`docs/FORMAT.md` sections 5, 7 and 8).
//!
//! A [`Content`] is what all handles of a stored file share. The caller holds its lock: shared for `&self`, exclusively
//! for `&mut self`. Nothing here knows names, the KMS or FUSE; a key that is missing is the error
//! [`ContentError::NoKey`], which changes nothing.

mod again;
pub mod examine;
mod holes;
mod io;
mod mend;
mod pages;
mod resize;
pub mod rewrap;
mod round;
mod skipmap;
mod write;

use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::backing;
use crate::crypto::aead::AeadKey;
use crate::crypto::secret::SecretBytes;
use crate::durable::{Barriers, Durability, Redo, RedoError, Sessions, Standing};
use crate::format::block::{self, Meta, Nonces, Shape, Slot, Version};
use crate::format::derived::{FileKeys, VolumeKeys};
use crate::format::file_header::{FileHeader, HeaderError, TooLong, Wrapping};
use crate::format::layout::{
    self, BLOCK, BLOCK_LEN, Group, HEADER_LEN, MAX_SIZE, RECORD_AT, blocks, data_page, slot_place, stored_len,
};
use crate::format::record::{RECORD_LEN, Record, SEALS_PER_EPOCH, SEALS_PER_RECORD};

use again::Doubts;
pub use io::Scratch;
pub use pages::Written;
use pages::{Edit, SlotPages};
use round::Round;
use skipmap::SkipMap;
pub use write::Sealed;

/// What all files of a mount share.
#[derive(Debug)]
pub struct Volume {
    pub keys: VolumeKeys,
    pub sessions: Sessions,
    pub redo: Redo,
    pub durability: Durability,
}

#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("the backing file system: {0}")]
    Backing(#[from] Errno),
    #[error("the file header: {0}")]
    Header(#[from] HeaderError),
    #[error("the file is shorter than its first page")]
    Short,
    #[error("the KMS gave a key that is not this file's: its key check differs")]
    WrongKey,
    #[error("the file's record does not verify")]
    Record,
    #[error("the file was cut: it holds {held} bytes of {size}")]
    Cut { held: u64, size: u64 },
    #[error("block {block} does not verify")]
    Block { block: u64 },
    #[error("block {block} has a slot that no writer makes")]
    Slot { block: u64 },
    #[error("block {block} has no version though its group is complete")]
    Missing { block: u64 },
    #[error("the file would be larger than 2^46 bytes")]
    TooBig,
    #[error("the file has been sealed 65536 · 2^31 times: copy it to get a new key")]
    Exhausted,
    #[error("the header has been written 2^32 times: copy the file to get a new one")]
    Generations,
    #[error(transparent)]
    WrappingTooLong(#[from] TooLong),
    /// No place of the redo file is free. The first `written` bytes of the request were written, and nothing else has
    /// changed. End rounds, sync, and call again for the rest.
    #[error("every place of the redo file is in use")]
    RedoFull { written: usize },
    /// The file is empty and has no data key yet: give it one with [`Content::set_key`] and call again.
    #[error("the file has no data key yet")]
    NoKey,
}

pub type Result<T> = std::result::Result<T, ContentError>;

/// A stored file whose header was read and verified, and whose data key is still to be had.
#[derive(Debug)]
pub enum Inspected {
    /// Stored length 0: no header, no key.
    Empty,
    Keyed(Box<Keyed>),
}

#[derive(Debug)]
pub struct Keyed {
    pub header: FileHeader,
    pub stored_len: u64,
    first_page: Box<[u8; BLOCK_LEN]>,
}

/// Reads the first page of a stored file and chooses its header copy. Needs no key of the file.
pub fn inspect(volume: &Volume, file: BorrowedFd<'_>) -> Result<Inspected> {
    let mut page = Box::new([0; BLOCK_LEN]);
    let n = backing::read_at(file, &mut page[..], 0)?;
    if n == 0 {
        return Ok(Inspected::Empty);
    }
    if n < BLOCK_LEN {
        return Err(ContentError::Short);
    }
    let header = FileHeader::choose(volume.keys.suite, &volume.keys.header, &page[..2 * HEADER_LEN])?;
    let stored_len = backing::stat(file)?.st_size as u64;
    Ok(Inspected::Keyed(Box::new(Keyed { header, first_page: page, stored_len })))
}

/// The key of a file and what it was derived with; kept while the file is open, also over a truncation to 0.
struct Keys {
    header: FileHeader,
    file: FileKeys,
    /// Block key of the epoch in which writes are sealed.
    epoch: u16,
    current: Arc<AeadKey>,
    /// Block keys of other epochs that were read.
    others: Mutex<HashMap<u16, Arc<AeadKey>>>,
}

impl Keys {
    fn new(header: FileHeader, file: FileKeys, epoch: u16) -> Self {
        let current = Arc::new(file.block_key(epoch));
        Self { header, file, epoch, current, others: Mutex::new(HashMap::new()) }
    }

    fn block_key(&self, epoch: u16) -> Arc<AeadKey> {
        if epoch == self.epoch {
            return self.current.clone();
        }
        self.others.lock().entry(epoch).or_insert_with(|| Arc::new(self.file.block_key(epoch))).clone()
    }

    fn next_epoch(&mut self) -> Result<()> {
        self.epoch = self.epoch.checked_add(1).ok_or(ContentError::Exhausted)?;
        self.current = Arc::new(self.file.block_key(self.epoch));
        Ok(())
    }
}

/// Barriers that a sync takes at most: the second makes slots durable that the first has allowed to be written. What
/// others write meanwhile is not waited for.
pub const SYNC_BARRIERS: usize = 2;

/// A sync under way.
#[derive(Debug)]
pub struct Sync {
    file: Arc<OwnedFd>,
    volume: Arc<Volume>,
    /// Ciphertext that waits was written into the redo file.
    over: bool,
    barriers: Arc<Barriers>,
    /// What failed before it was begun.
    failures: Failures,
    recorded: u64,
    cuts: u64,
    /// Its number among [`Sync::barriers`]: what was issued under a lower stamp is covered.
    stamp: u64,
}

/// Counts of failed barriers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Failures {
    /// [`Barriers::failures`] of the file.
    file: u64,
    /// [`Redo::failures`]
    redo: u64,
}

impl Sync {
    /// B: what was issued before is durable after. If it fails, [`Content::barrier_failed`] has to be told. To be called
    /// without the content's lock where others can sync the file: it waits for them.
    pub fn barrier(&self) -> Result<()> {
        if self.over {
            // The disk has both to do while the first is waited for.
            backing::start_write_back(self.file.as_fd());
            self.volume.redo.sync()?;
        }
        Ok(self.barriers.end(self.stamp, || backing::fdatasync(self.file.as_fd()))?)
    }
}

impl From<RedoError> for ContentError {
    fn from(e: RedoError) -> Self {
        match e {
            RedoError::Full => Self::RedoFull { written: 0 },
            RedoError::Backing(e) => Self::Backing(e),
        }
    }
}

/// The plaintext view of one stored file.
pub struct Content {
    volume: Arc<Volume>,
    file: Arc<OwnedFd>,
    barriers: Arc<Barriers>,
    /// Whether `file` is open for writing.
    writable: bool,
    /// `None`: empty, and no key was ever made or fetched.
    keys: Option<Keys>,
    /// Plaintext bytes.
    size: u64,
    /// The size that the stored record says; 0 where there is no record.
    recorded: u64,
    /// A size that a barrier made durable.
    synced: u64,
    /// Blocks of which some byte lies below this may be durable: they are at risk. At least `synced`.
    risk: u64,
    /// What [`Sessions::aged`] was when `risk` was set.
    aged: u64,
    /// The stored length as it is.
    stored_len: u64,
    /// Blocks sealed in this epoch.
    seals: u32,
    seals_recorded: u32,
    /// In every slot the newer version is the good one.
    newest: bool,
    /// See [`Self::leave_mtime`].
    leave_mtime: bool,
    /// The record says less than is known here, beside the size.
    record_stale: bool,
    /// Are the bytes behind the end, in the last block as it is stored, zero? `None`: look.
    tail_zero: Option<bool>,
    /// Slots behind the end may not be empty: a crash or a failed write left them.
    slots_behind: bool,
    /// How often the stored length was cut, or slots behind the end emptied; and the count at the last barrier.
    cuts: u64,
    cuts_synced: u64,
    /// Good halves of blocks that were looked at, while `newest` does not say them.
    good: HashMap<u64, usize>,
    pages: SlotPages,
    skipped: SkipMap,
    round: Round,
    doubts: Doubts,
}

impl Content {
    /// A stored file of length 0.
    pub fn empty(volume: Arc<Volume>, file: Arc<OwnedFd>) -> Self {
        let doubts = Doubts::new(&volume);
        Self {
            volume,
            file,
            barriers: Arc::default(),
            writable: true,
            keys: None,
            size: 0,
            recorded: 0,
            synced: 0,
            risk: 0,
            aged: 0,
            stored_len: 0,
            seals: 0,
            seals_recorded: 0,
            newest: true,
            leave_mtime: false,
            record_stale: false,
            tail_zero: Some(true),
            slots_behind: false,
            cuts: 0,
            cuts_synced: 0,
            good: HashMap::new(),
            pages: SlotPages::default(),
            skipped: SkipMap::default(),
            round: Round::default(),
            doubts,
        }
    }

    /// Opens an inspected file with its data key: section 7's first table. Where `file` is open for writing
    /// (`writable`), a stored length that is not the one of the size is set right.
    pub fn open(
        volume: Arc<Volume>,
        file: Arc<OwnedFd>,
        writable: bool,
        inspected: Keyed,
        data_key: &SecretBytes,
    ) -> Result<Self> {
        let Keyed { header, first_page, stored_len: stored } = inspected;
        if data_key.len() != volume.keys.suite.key_len() {
            return Err(ContentError::WrongKey);
        }
        let keys = FileKeys::derive(volume.keys.suite, volume.keys.volume_id, header.file_id, data_key);
        keys.verify_key_check(&header.key_check).map_err(|_| ContentError::WrongKey)?;
        let record = Record::from_bytes(&keys.record, &first_page[RECORD_AT..RECORD_AT + RECORD_LEN])
            .map_err(|_| ContentError::Record)?;
        let standing = volume.sessions.standing(record.session);
        let unsettled = standing == Standing::Unsettled;
        let newest = record.newest && volume.sessions.newest_trusted(record.session);
        let held = layout::held(stored / BLOCK) * BLOCK;
        let size = if held >= record.size {
            record.size
        } else if !unsettled || held < record.synced {
            return Err(ContentError::Cut { held, size: record.size });
        } else {
            held
        };
        let mut content = Self::empty(volume, file);
        content.writable = writable;
        content.keys = Some(Keys::new(header, keys, record.epoch));
        content.size = size;
        content.recorded = record.size;
        content.stored_len = stored;
        content.seals = record.seals;
        content.seals_recorded = record.seals;
        content.newest = newest;
        content.record_stale = newest != record.newest;
        content.tail_zero = if size.is_multiple_of(BLOCK) { Some(true) } else { None };
        content.slots_behind = true;
        content.pages.insert(0, Arc::new(*first_page));
        content.skipped = SkipMap::new(record.sparse);
        if unsettled {
            content.cut_unreadable_end(record.synced);
        }
        // What this mount wrote and has not synced is not durable; what is there from before is.
        content.synced = if standing == Standing::Own { record.synced.min(content.size) } else { content.size };
        content.risk = content.size;
        if writable && (content.size != record.size || stored != stored_len(content.size)) {
            let volume = content.volume.clone();
            let _change = volume.sessions.change();
            tracing::warn!(
                recorded = record.size,
                size = content.size,
                stored,
                "a file's end was lost in a crash, or its length is not its size: set right"
            );
            content.write_record()?;
            content.set_stored_len(stored_len(content.size))?;
            content.end_round()?;
        }
        Ok(content)
    }

    /// While the last block gives EIO and the size exceeds `synced`, the file ends before it.
    fn cut_unreadable_end(&mut self, synced: u64) {
        let mut scratch = Scratch::new();
        while self.size > synced {
            let last = (self.size - 1) / BLOCK;
            let first = match self.read_blocks(last, 1, &mut scratch) {
                // The backing does not read it: that is no reason to cut it off.
                Ok(()) | Err(ContentError::Backing(_)) => break,
                Err(ContentError::Missing { .. }) => self.first_missing(last).unwrap_or(last),
                Err(_) => last,
            };
            self.size = (first * BLOCK).max(synced);
            self.tail_zero = if self.size.is_multiple_of(BLOCK) { Some(true) } else { None };
        }
    }

    /// Pages that were written and are not known to be durable: for who opens the file next.
    pub fn take_written(&mut self) -> Written {
        let mut written = std::mem::take(self.pages.written());
        self.doubts.under_way.drain(..).for_each(|(_, more)| written.join(more));
        written
    }

    /// Pages that were written before the file was opened.
    pub fn add_written(&mut self, written: Written) {
        self.pages.written().join(written);
    }

    /// Plaintext bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub fn shared_file(&self) -> Arc<OwnedFd> {
        self.file.clone()
    }

    pub fn has_key(&self) -> bool {
        self.keys.is_some()
    }

    /// Uses `file`, another descriptor of the same stored file that is open for writing, from now on.
    pub fn replace_file(&mut self, file: Arc<OwnedFd>) {
        self.file = file;
        self.writable = true;
    }

    /// Gives an empty file its new data key. Nothing is written before the first byte.
    pub fn set_key(&mut self, wrappings: Vec<Wrapping>, data_key: &SecretBytes) -> Result<()> {
        if self.keys.is_some() {
            return Ok(());
        }
        let mut header = FileHeader::new(wrappings);
        let keys = FileKeys::derive(self.volume.keys.suite, self.volume.keys.volume_id, header.file_id, data_key);
        header.key_check = keys.key_check();
        header.to_bytes(self.volume.keys.suite, &self.volume.keys.header)?;
        self.keys = Some(Keys::new(header, keys, 0));
        Ok(())
    }

    fn keys(&self) -> Result<&Keys> {
        self.keys.as_ref().ok_or(ContentError::NoKey)
    }

    /// Everything written so far is durable when this returns.
    pub fn sync(&mut self) -> Result<()> {
        for _ in 0..SYNC_BARRIERS {
            let sync = self.begin_sync()?;
            let barrier = sync.barrier();
            if barrier.is_err() {
                self.barrier_failed(&sync);
            }
            barrier?;
            if !self.end_sync(&sync)? {
                break;
            }
        }
        Ok(())
    }

    /// The first part of [`Self::sync`]: what remains is [`Sync::barrier`], for which no lock is needed, and
    /// [`Self::end_sync`].
    pub fn begin_sync(&mut self) -> Result<Sync> {
        self.mend_head()?;
        self.begin_barrier()
    }

    /// The first part of ending a round without a sync: the record is written only after a failure.
    pub fn begin_round_end(&mut self) -> Result<Sync> {
        if self.doubts.again || self.doubts.unrecorded {
            self.mend_head()?;
        }
        self.begin_barrier()
    }

    /// The last part: issues second halves. True if one of them needs a barrier of its own, that is, if all has to be
    /// done once more.
    pub fn end_sync(&mut self, sync: &Sync) -> Result<bool> {
        self.after_barrier(sync)
    }

    /// At the last close of a file that is open for writing, once nothing waits: the record says what is known. After an
    /// error [`Self::waits`] says so, and the file has to stay open.
    pub fn close(&mut self) -> Result<()> {
        if self.stored_len > 0 && self.seals != self.seals_recorded {
            self.record_stale = true;
        }
        self.mend_head().inspect_err(|_| self.doubts.unrecorded = true)
    }

    /// A length could not be set.
    fn has_wrong_length(&self) -> bool {
        self.stored_len != stored_len(self.size)
    }

    /// Writes the record, and sets the length.
    fn write_record_in_passing(&mut self) -> Result<()> {
        let volume = self.volume.clone();
        let _change = volume.sessions.change();
        self.in_passing(|content| {
            content.write_record()?;
            content.set_stored_len(stored_len(content.size))
        })
    }

    /// Writes where the user changed nothing: the file's mtime stays.
    fn in_passing<T>(&mut self, write: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.leave_mtime {
            return write(self);
        }
        let before = backing::stat(self.file.as_fd())?;
        let written = write(self);
        backing::set_mtime(self.file.as_fd(), &before)?;
        written
    }

    /// Whether somebody will set the file's mtime at its close, whatever it is by then.
    pub fn leave_mtime(&mut self, leave: bool) {
        self.leave_mtime = leave;
    }

    fn record(&self) -> Record {
        Record {
            session: self.volume.sessions.current(),
            epoch: self.keys.as_ref().map_or(0, |keys| keys.epoch),
            sparse: self.skipped.sparse(),
            newest: self.newest,
            size: self.size,
            synced: self.synced.min(self.size),
            seals: self.seals,
        }
    }

    /// Puts the record of the present state into the cached first page; the caller writes it.
    fn stage_record(&mut self) -> Result<[u8; RECORD_LEN]> {
        let bytes = self.record().to_bytes(&self.keys()?.file.record);
        let page = self.pages.load_mut(0, self.file.as_fd())?;
        page[RECORD_AT..RECORD_AT + RECORD_LEN].copy_from_slice(&bytes);
        Ok(bytes)
    }

    fn record_was_written(&mut self) {
        self.recorded = self.size;
        self.seals_recorded = self.seals;
        self.record_stale = false;
    }

    fn write_record(&mut self) -> Result<()> {
        let bytes = self.stage_record()?;
        self.pages.note_written(RECORD_AT as u64, RECORD_LEN);
        if let Err(e) = backing::write_at(self.file.as_fd(), &bytes, RECORD_AT as u64) {
            // What the page says now may be what was not to be: it must not go with slots that are written.
            self.pages.forget(0);
            self.record_stale = true;
            return Err(e.into());
        }
        self.record_was_written();
        Ok(())
    }

    /// A length that falls is cut to whole pages first: the empty tail behind them never shows what was there.
    fn set_stored_len(&mut self, len: u64) -> Result<()> {
        if len < self.stored_len {
            let whole = len / BLOCK * BLOCK;
            backing::set_len(self.file.as_fd(), whole)?;
            self.stored_len = whole;
        }
        if len != self.stored_len {
            backing::set_len(self.file.as_fd(), len)?;
            self.stored_len = len;
        }
        Ok(())
    }

    /// Whether the empty tail is what the format says: a hole or zeros.
    fn tail_is_empty(&self) -> Result<bool> {
        let mut tail = [0; BLOCK_LEN];
        let n = (self.stored_len % BLOCK) as usize;
        backing::read_at(self.file.as_fd(), &mut tail[..n], self.stored_len - n as u64)?;
        Ok(tail.iter().all(|&b| b == 0))
    }

    /// Counts `n` seals that are about to be made, and begins the next epoch where this one is used up.
    fn reserve_seals(&mut self, n: u64) -> Result<()> {
        if u64::from(self.seals) + n > u64::from(SEALS_PER_EPOCH) {
            self.keys.as_mut().ok_or(ContentError::NoKey)?.next_epoch()?;
            self.seals = 0;
            self.record_stale = true;
        }
        // A request has at most 2^34 blocks in theory and a few thousand marks in practice.
        self.seals = self.seals.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        if self.seals - self.seals_recorded.min(self.seals) >= SEALS_PER_RECORD {
            self.record_stale = true;
        }
        Ok(())
    }

    /// The half of `block`'s slot that must stay, for a slot with data versions: the one whose ciphertext is in the page
    /// or in a redo file that a session left; `None` if none is.
    fn good_half(&mut self, block: u64, slot: &Slot, scratch: &mut Scratch) -> Result<Option<usize>> {
        let Shape::Data { newer, older } = slot.shape() else { return Ok(None) };
        if let Some((_, half)) = self.round.over(block) {
            // What waits may be replaced; the version in the page stays.
            return Ok(slot.version(1 - half).map(|_| 1 - half));
        }
        if self.newest {
            return Ok(Some(newer));
        }
        if let Some(&half) = self.good.get(&block) {
            return Ok(Some(half));
        }
        for half in [Some(newer), older].into_iter().flatten() {
            let version = *slot.version(half).expect("the shape named it");
            if self.page_matches(block, &version, scratch)? {
                self.good.insert(block, half);
                return Ok(Some(half));
            }
        }
        Ok(None)
    }

    fn page_matches(&self, block: u64, version: &Version, scratch: &mut Scratch) -> Result<bool> {
        let page = scratch.spare_page();
        backing::read_at(self.file.as_fd(), page, data_page(block) * BLOCK)?;
        let key = self.keys()?.block_key(version.meta.epoch);
        if block::open_block(&key, block, version, page).is_ok() {
            return Ok(true);
        }
        let left = self.volume.redo.find(&self.keys()?.header.file_id, block, version, page)?;
        Ok(left && block::open_block(&key, block, version, page).is_ok())
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content(size {}, stored {})", self.size, self.stored_len)
    }
}

#[cfg(test)]
mod tests;
