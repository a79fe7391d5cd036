//! The arithmetic of places and sizes, for any stored length and any block.
#![no_main]

use kmsfs::format::layout::{
    BLOCK, BLOCK_LEN, Group, MAX_SIZE, SLOT_LEN, blocks, data_page, held, plain_len, slot_page_blocks, slot_place,
    stored_len,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|numbers: (u64, u64)| {
    let (any, other) = numbers;
    // What `stat` says of any file: no more than is stored.
    assert!(plain_len(any) <= any);
    assert!(held(any) <= any && held(any) <= held(any.saturating_add(1)));
    let size = other % (MAX_SIZE + 1);
    assert_eq!(plain_len(stored_len(size)), size);
    assert_eq!(held(stored_len(size) / BLOCK), blocks(size));
    assert!(stored_len(size) >= size && (stored_len(size) - size).is_multiple_of(BLOCK));
    let block = any % (MAX_SIZE / BLOCK);
    let (slots, at) = slot_place(block);
    assert!(at + SLOT_LEN <= BLOCK_LEN && at.is_multiple_of(SLOT_LEN) && slots < data_page(block));
    let beside = slot_page_blocks(block);
    assert!(beside.contains(&block) && slot_place(beside.end - 1).0 == slots && slot_place(beside.start).0 == slots);
    if let Some(group) = Group::of(block) {
        assert_eq!((group.tag_page(), group.first_block(), group.end_block()), (slots, beside.start, beside.end));
    }
    assert!(data_page(block) < data_page(block + 1));
});
