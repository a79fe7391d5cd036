//! Where the blocks, slots and sizes of a stored file lie (`docs/FORMAT.md` sections 5.1 and 5.6). Pure arithmetic.

/// Plaintext bytes of a block, and bytes of a stored page.
pub const BLOCK_LEN: usize = 4096;
pub const BLOCK: u64 = BLOCK_LEN as u64;
/// Blocks of a region (1 GiB) and the pages they take.
pub const REGION_BLOCKS: u64 = 1 << 18;
pub const REGION_PAGES: u64 = 266_241;
/// Blocks whose slots lie in the head page of their region.
pub const HEAD_BLOCKS: u64 = 30;
/// Blocks of a group, whose slots share a tag page. Group 0 of a region has only those from [`HEAD_BLOCKS`] on.
pub const GROUP_BLOCKS: u64 = 64;
pub const REGION_GROUPS: u64 = REGION_BLOCKS / GROUP_BLOCKS;
/// The largest plaintext size; beyond it EFBIG.
pub const MAX_SIZE: u64 = 1 << 46;

/// Offsets in a region's first head page.
pub const HEADER_LEN: usize = 1024;
pub const HEAD_SLOTS_AT: usize = 2048;
pub const RECORD_AT: usize = 4032;
pub const SLOT_LEN: usize = 64;

/// A group of a file, counted over all regions: region · 4096 + number in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u64);

impl Group {
    /// The group of `block`, or `None` for a block whose slot lies in a head page.
    pub fn of(block: u64) -> Option<Self> {
        let (region, k) = (block / REGION_BLOCKS, block % REGION_BLOCKS);
        (k >= HEAD_BLOCKS).then_some(Self(region * REGION_GROUPS + k / GROUP_BLOCKS))
    }

    pub fn region(self) -> u64 {
        self.0 / REGION_GROUPS
    }

    /// 0..4096.
    pub fn in_region(self) -> u64 {
        self.0 % REGION_GROUPS
    }

    pub fn first_block(self) -> u64 {
        let first = self.0 * GROUP_BLOCKS;
        if self.in_region() == 0 { first + HEAD_BLOCKS } else { first }
    }

    /// One past its last block.
    pub fn end_block(self) -> u64 {
        (self.0 + 1) * GROUP_BLOCKS
    }

    /// The stored page that holds its slots.
    pub fn tag_page(self) -> u64 {
        let page = if self.in_region() == 0 { 31 } else { 1 + 65 * self.in_region() };
        self.region() * REGION_PAGES + page
    }
}

/// The stored page of a block's ciphertext.
pub fn data_page(block: u64) -> u64 {
    let (region, k) = (block / REGION_BLOCKS, block % REGION_BLOCKS);
    region * REGION_PAGES + if k < HEAD_BLOCKS { 1 + k } else { 2 + k + k / GROUP_BLOCKS }
}

/// The stored page of a block's slot, and the slot's place in that page.
pub fn slot_place(block: u64) -> (u64, usize) {
    let (region, k) = (block / REGION_BLOCKS, block % REGION_BLOCKS);
    match Group::of(block) {
        None => (region * REGION_PAGES, HEAD_SLOTS_AT + SLOT_LEN * k as usize),
        Some(group) => (group.tag_page(), SLOT_LEN * (k % GROUP_BLOCKS) as usize),
    }
}

/// The blocks whose slots share the page of `block`'s slot: first and one past the last.
pub fn slot_page_blocks(block: u64) -> std::ops::Range<u64> {
    match Group::of(block) {
        None => {
            let first = block / REGION_BLOCKS * REGION_BLOCKS;
            first..first + HEAD_BLOCKS
        }
        Some(group) => group.first_block()..group.end_block(),
    }
}

/// Blocks of a file of `size` bytes.
pub fn blocks(size: u64) -> u64 {
    size.div_ceil(BLOCK)
}

/// Stored length of a file of `size` plaintext bytes, at most [`MAX_SIZE`].
pub fn stored_len(size: u64) -> u64 {
    if size == 0 { 0 } else { BLOCK * (data_page((size - 1) / BLOCK) + 1) + size % BLOCK }
}

/// Data pages among the first `pages` pages.
pub fn held(pages: u64) -> u64 {
    let (region, q) = (pages / REGION_PAGES, pages % REGION_PAGES);
    let inside = if q <= 31 {
        q.saturating_sub(1)
    } else if q <= 66 {
        q - 2
    } else {
        let u = q - 66;
        64 + 64 * (u / 65) + (u % 65).saturating_sub(1)
    };
    region * REGION_BLOCKS + inside
}

/// Plaintext size that a stored length says. Total: every length has one.
pub fn plain_len(stored: u64) -> u64 {
    let (held, tail) = (held(stored / BLOCK), stored % BLOCK);
    match (held, tail) {
        (0, _) => 0,
        (held, 0) => BLOCK * held,
        (held, tail) => BLOCK * (held - 1) + tail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The worked sizes of `docs/FORMAT.md` section 5.6.
    #[test]
    fn worked_sizes() {
        let table = [
            (0, 0),
            (1, 8193),
            (4096, 8192),
            (4097, 12289),
            (122_880, 126_976),
            (122_881, 135_169),
            (262_144, 270_336),
            (262_145, 278_529),
            (1 << 20, 1_069_056),
            (1 << 30, 1_090_523_136),
            ((1 << 30) + 1, 1_090_531_329),
        ];
        for (plain, stored) in table {
            assert_eq!(stored_len(plain), stored, "stored({plain})");
            assert_eq!(plain_len(stored), plain, "plain({stored})");
        }
    }

    #[test]
    fn pages_of_two_regions_are_used_once() {
        let mut used = std::collections::HashSet::new();
        let mut slots = std::collections::HashSet::new();
        let mut tags = std::collections::HashSet::new();
        for block in 0..2 * REGION_BLOCKS {
            assert!(used.insert(data_page(block)));
            let place = slot_place(block);
            assert!(slots.insert(place));
            assert_eq!(place.1 / 512, (place.1 + SLOT_LEN - 1) / 512, "a slot never crosses a sector");
            assert!(slot_page_blocks(block).contains(&block));
            tags.insert(place.0);
        }
        assert!(tags.is_disjoint(&used));
        assert_eq!(tags.len() + used.len(), 2 * REGION_PAGES as usize);
    }

    #[test]
    fn a_mebibyte_is_260_consecutive_pages() {
        for request in [1u64, 2, 100, 1023, 1025] {
            let blocks = request * 256..(request + 1) * 256;
            let mut pages: Vec<u64> = blocks.clone().map(data_page).chain(blocks.map(|b| slot_place(b).0)).collect();
            pages.sort_unstable();
            pages.dedup();
            assert_eq!(pages.len(), 260);
            assert_eq!(pages[259] - pages[0], 259);
        }
    }

    proptest! {
        #[test]
        fn plain_inverts_stored(size in prop_oneof![0..1u64 << 20, 0..1u64 << 34, 0..=MAX_SIZE]) {
            prop_assert_eq!(plain_len(stored_len(size)), size);
        }

        #[test]
        fn held_counts_the_data_pages(block in 0..1u64 << 34) {
            prop_assert_eq!(held(data_page(block)), block);
            prop_assert_eq!(held(data_page(block) + 1), block + 1);
        }

        #[test]
        fn plain_is_total(stored in any::<u64>()) {
            plain_len(stored);
        }
    }
}
