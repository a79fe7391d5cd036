//! A redo file as somebody may have written it: what is found is what lies there, under the version asked for.
#![no_main]

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use kmsfs::durable::Redo;
use kmsfs::format::layout::BLOCK_LEN;
use kmsfs::format::redo::{PLACE_HEAD_LEN, PLACE_LEN, PlaceHead};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DIR: PathBuf = {
        let dir = std::env::temp_dir().join(format!("kmsfs-fuzz-redo-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        dir
    };
}

fuzz_target!(|input: (Vec<(u8, [u8; PLACE_HEAD_LEN])>, u16)| {
    let (places, cut) = input;
    // Heads are the input's, pages say where they are from; the end may be anywhere.
    let mut bytes = Vec::new();
    for (n, (page, head)) in places.iter().take(40).enumerate() {
        let mut head = *head;
        if *page < 128 {
            // A version that a writer could have made.
            (head[62], head[63]) = (1, n as u8);
        }
        bytes.extend_from_slice(&head);
        bytes.resize(bytes.len() + BLOCK_LEN, *page);
    }
    bytes.truncate(bytes.len().saturating_sub(usize::from(cut) % (2 * PLACE_LEN)));
    DIR.with(|dir| {
        std::fs::write(dir.join("kmsfs.redo.7"), &bytes).expect("writes");
        let root = File::open(dir).expect("opens");
        let redo = Redo::new(root.as_fd(), vec![7, 9]).expect("a descriptor");
        let mut page = [0; BLOCK_LEN];
        for place in bytes.chunks(PLACE_LEN).filter(|place| place.len() >= PLACE_HEAD_LEN) {
            let Some(head) = PlaceHead::from_bytes(&place[..PLACE_HEAD_LEN]) else { continue };
            assert!(redo.has_left(&head.file_id));
            let found = redo.find(&head.file_id, head.block, &head.version, &mut page).expect("the backing reads");
            assert!(found || place.len() < PLACE_LEN, "a whole place is found");
            if found {
                let same = |other: &&[u8]| {
                    other.len() == PLACE_LEN && other[PLACE_HEAD_LEN..] == page && {
                        PlaceHead::from_bytes(&other[..PLACE_HEAD_LEN]) == Some(head)
                    }
                };
                assert!(bytes.chunks(PLACE_LEN).any(|place| same(&place)), "found is what lies there");
            }
            let mut other = head.version;
            other.tag[0] ^= 1;
            let _ = redo.find(&head.file_id, head.block ^ 1, &head.version, &mut page);
            let _ = redo.find(&head.file_id, head.block, &other, &mut page);
        }
    });
});
