//! The map of a sparse file: which groups are complete (`docs/FORMAT.md` section 5.5).

use std::collections::{BTreeSet, HashMap};
use std::os::fd::BorrowedFd;

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::crypto::derive::MacKey;
use crate::format::layout::{Group, HEAD_BLOCKS, REGION_BLOCKS, REGION_GROUPS, REGION_PAGES, blocks};
use crate::format::record::{
    MAP_ALL_COMPLETE, MAP_RECORD_GROUPS, MAP_RECORD_LEN, MAP_RECORDS, MapBits, map_record_from_bytes,
    map_record_to_bytes,
};

use super::pages::{Edit, SlotPages};

/// The bits of a region's map, and whether the stored file has them.
#[derive(Clone)]
struct RegionMap {
    bits: [MapBits; MAP_RECORDS],
}

/// Which groups of a file are complete. In a file that is not sparse all groups inside are.
#[derive(Default)]
pub struct SkipMap {
    sparse: bool,
    /// Bits of groups behind the end are known to be clear: a crash or a cut may have left some in the file.
    clear_behind: bool,
    /// Regions whose map was read or made; behind a lock since readers fill it.
    regions: Mutex<HashMap<u64, RegionMap>>,
    /// Map records (region, number) that differ from what is stored.
    stale: BTreeSet<(u64, usize)>,
    /// A group known not to be complete, where to look first.
    incomplete_hint: Option<Group>,
    /// Groups that became complete by slots which are not durable yet, and the round's stamp then: the stored bits say
    /// so later.
    delayed: HashMap<Group, u64>,
    /// Groups that became complete by slots which are not written yet.
    completing: Vec<Group>,
}

/// The page that holds a region's map, with the slots of its group 0.
pub fn map_page(region: u64) -> u64 {
    region * REGION_PAGES + 31
}

impl SkipMap {
    pub fn new(sparse: bool) -> Self {
        Self { sparse, ..Self::default() }
    }

    pub fn sparse(&self) -> bool {
        self.sparse
    }

    /// Whether every slot of `group` inside the file has a version.
    pub fn complete(&self, group: Group, pages: &SlotPages, file: BorrowedFd<'_>, key: &MacKey) -> Result<bool, Errno> {
        if !self.sparse {
            return Ok(true);
        }
        let (region, at) = place(group);
        let mut regions = self.regions.lock();
        let map = match regions.entry(region) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let page = pages.load(map_page(region), file)?;
                let bits = std::array::from_fn(|m| {
                    let at = m * MAP_RECORD_LEN;
                    map_record_from_bytes(key, region, m, &page[at..at + MAP_RECORD_LEN]).unwrap_or(MAP_ALL_COMPLETE)
                });
                entry.insert(RegionMap { bits })
            }
        };
        Ok(map.bits[at.0][at.1] & at.2 != 0)
    }

    /// The file of `size` bytes, whose groups are all complete, becomes one with skipped groups.
    pub fn become_sparse(&mut self, size: u64) {
        if self.sparse {
            return;
        }
        self.sparse = true;
        self.clear_behind = true;
        self.regions.get_mut().clear();
        self.stale.clear();
        for region in 0..blocks(size).div_ceil(REGION_BLOCKS) {
            self.enter_region(region);
            let inside = blocks(size).saturating_sub(region * REGION_BLOCKS).min(REGION_BLOCKS);
            let groups = if inside > HEAD_BLOCKS { inside.div_ceil(64) } else { 0 };
            let map = self.regions.get_mut().get_mut(&region).expect("entered above");
            for group in 0..groups {
                let (_, at) = place(Group(region * REGION_GROUPS + group));
                map.bits[at.0][at.1] |= at.2;
            }
        }
    }

    /// A sparse file grows into a region that it did not have: its map begins with no group complete.
    pub fn enter_region(&mut self, region: u64) {
        self.regions.get_mut().insert(region, RegionMap { bits: [[0; 32]; MAP_RECORDS] });
        self.stale.extend((0..MAP_RECORDS).map(|m| (region, m)));
    }

    /// Sets or clears the bit of `group`, whose region is loaded or entered.
    pub fn set(&mut self, group: Group, complete: bool) {
        if !self.sparse {
            return;
        }
        let (region, at) = place(group);
        let Some(map) = self.regions.get_mut().get_mut(&region) else { return };
        let byte = &mut map.bits[at.0][at.1];
        let new = if complete { *byte | at.2 } else { *byte & !at.2 };
        if new != *byte {
            *byte = new;
            self.stale.insert((region, at.0));
        }
        if !complete {
            self.incomplete_hint = Some(group);
        }
    }

    /// `group` becomes complete by slots that are about to be written.
    pub fn completes(&mut self, group: Group) {
        self.completing.push(group);
        self.set(group, true);
    }

    /// The slots of all groups that became complete are written.
    pub fn slots_are_written(&mut self) {
        self.completing.clear();
    }

    /// Those slots could not be written, or not all of them: their groups are not complete.
    pub fn take_back(&mut self) {
        for group in std::mem::take(&mut self.completing) {
            self.delayed.remove(&group);
            self.set(group, false);
        }
    }

    /// The stored bit of `group`, which became complete, waits for a barrier that is begun after `stamp`.
    pub fn delay(&mut self, group: Group, stamp: u64) {
        if self.sparse {
            self.delayed.insert(group, stamp);
        }
    }

    /// Whether bits wait for a barrier.
    pub fn waits(&self) -> bool {
        !self.delayed.is_empty()
    }

    /// Bits that wait are not stored: until somebody writes into their groups again, those count as not complete.
    pub fn abandon(&mut self) {
        self.delayed.clear();
    }

    /// A barrier that was begun at `stamp` is through: bits that waited for it may be stored. True if there are some.
    pub fn release(&mut self, stamp: u64) -> bool {
        let stale = &mut self.stale;
        let before = self.delayed.len();
        self.delayed.retain(|group, at| {
            let stays = *at >= stamp;
            if !stays {
                stale.insert((group.region(), place(*group).1.0));
            }
            stays
        });
        self.delayed.len() != before
    }

    /// Before a file of `size` bytes grows: no bit behind its end is set, whatever the file said.
    pub fn before_growth(
        &mut self,
        size: u64,
        pages: &SlotPages,
        file: BorrowedFd<'_>,
        key: &MacKey,
    ) -> Result<(), Errno> {
        if self.clear_behind { Ok(()) } else { self.cut(size, pages, file, key) }
    }

    /// The file was cut to `size`: groups behind it are not complete, regions behind it are gone.
    pub fn cut(&mut self, size: u64, pages: &SlotPages, file: BorrowedFd<'_>, key: &MacKey) -> Result<(), Errno> {
        if !self.sparse {
            return Ok(());
        }
        // Until all of this is done.
        self.clear_behind = false;
        self.delayed.retain(|group, _| group.first_block() < blocks(size));
        let last_region = blocks(size).saturating_sub(1) / REGION_BLOCKS;
        self.regions.get_mut().retain(|&region, _| region <= last_region);
        self.stale.retain(|&(region, _)| region <= last_region);
        let inside = blocks(size) - last_region * REGION_BLOCKS;
        if inside <= HEAD_BLOCKS {
            // Page 31 is cut away as well.
            self.regions.get_mut().remove(&last_region);
            self.stale.retain(|&(region, _)| region != last_region);
            self.clear_behind = true;
            return Ok(());
        }
        // Loads the region, so that its bits can be changed.
        self.complete(Group(last_region * REGION_GROUPS), pages, file, key)?;
        for group in inside.div_ceil(64)..REGION_GROUPS {
            self.set(Group(last_region * REGION_GROUPS + group), false);
        }
        self.incomplete_hint = None;
        self.clear_behind = true;
        Ok(())
    }

    /// If all groups of a file of `size` bytes are complete, it is an ordinary file again: true.
    pub fn settle(&mut self, size: u64, pages: &SlotPages, file: BorrowedFd<'_>, key: &MacKey) -> Result<bool, Errno> {
        if !self.sparse || !self.delayed.is_empty() {
            return Ok(false);
        }
        let end = blocks(size);
        if let Some(hint) = self.incomplete_hint
            && hint.first_block() < end
            && !self.complete(hint, pages, file, key)?
        {
            return Ok(false);
        }
        let mut block = HEAD_BLOCKS;
        while block < end {
            if let Some(group) = Group::of(block) {
                if !self.complete(group, pages, file, key)? {
                    self.incomplete_hint = Some(group);
                    return Ok(false);
                }
                block = group.end_block();
            } else {
                block = block / REGION_BLOCKS * REGION_BLOCKS + HEAD_BLOCKS;
            }
        }
        *self = Self::default();
        Ok(true)
    }

    /// Puts the map records that differ into the cached pages and `edit`. Only those whose page lies inside a file of
    /// `size` bytes; the others wait until it does.
    pub fn stage(
        &mut self,
        size: u64,
        pages: &mut SlotPages,
        file: BorrowedFd<'_>,
        key: &MacKey,
        edit: &mut Edit,
    ) -> Result<(), Errno> {
        let stored: Vec<(u64, usize)> = self
            .stale
            .iter()
            .copied()
            .filter(|&(region, _)| blocks(size) > region * REGION_BLOCKS + HEAD_BLOCKS)
            .collect();
        for (region, m) in stored {
            let bits = self.regions.get_mut().get(&region).map(|map| map.bits[m]);
            let Some(mut bits) = bits else { continue };
            for (byte, mask) in self.delayed.keys().filter_map(|&group| match place(group) {
                (of, (number, byte, mask)) if (of, number) == (region, m) => Some((byte, mask)),
                _ => None,
            }) {
                bits[byte] &= !mask;
            }
            let at = m * MAP_RECORD_LEN;
            let page = pages.load_mut(map_page(region), file)?;
            page[at..at + MAP_RECORD_LEN].copy_from_slice(&map_record_to_bytes(key, region, m, &bits));
            edit.touch(map_page(region), at..at + MAP_RECORD_LEN);
            self.stale.remove(&(region, m));
        }
        Ok(())
    }

    /// After a failed write: what is stored is not known, so all maps are written again with the next change.
    pub fn all_stale(&mut self) {
        let regions: Vec<u64> = self.regions.get_mut().keys().copied().collect();
        self.stale.extend(regions.into_iter().flat_map(|region| (0..MAP_RECORDS).map(move |m| (region, m))));
    }
}

/// Region of a group, and its bit: map record, byte, mask.
fn place(group: Group) -> (u64, (usize, usize, u8)) {
    let in_region = group.in_region();
    let j = (in_region % MAP_RECORD_GROUPS) as usize;
    (group.region(), ((in_region / MAP_RECORD_GROUPS) as usize, j / 8, 1 << (j % 8)))
}
