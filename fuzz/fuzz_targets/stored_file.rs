//! A whole stored file, changed in every way that the input says: by a mount and by `check` it is read without a panic,
//! and each block is what was once written there, or an error. The file was left by a crash: slots have two versions,
//! pages wait in a redo file. Records and maps are also changed with their MACs made right, so that what lies behind is
//! reached.
#![no_main]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kmsfs::content::examine::{Buffer, Depth, Exam, Troubles, look_at_head};
use kmsfs::content::{Content, Inspected, Scratch, Volume, inspect};
use kmsfs::crypto::Suite;
use kmsfs::crypto::secret::SecretBytes;
use kmsfs::durable::{Durability, Redo, Sessions};
use kmsfs::format::derived::{FileKeys, VolumeKeys};
use kmsfs::format::file_header::{PROVIDER_CTYUN, Wrapping};
use kmsfs::format::layout::{BLOCK, BLOCK_LEN, RECORD_AT, blocks, stored_len};
use kmsfs::format::record::{Record, map_record_to_bytes};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Edit {
    Xor { off: u32, with: u8 },
    Zero { page: u8 },
    Len(u64),
    LenOf(u64),
    Slot { from: u8, to: u8, half: bool },
    Record { session: u8, sparse: bool, newest: bool, size: u64, synced: u64 },
    Map { m: u8, bits: [u8; 32] },
    Before { page: u8 },
}

struct Fixture {
    volume: Arc<Volume>,
    file: Arc<OwnedFd>,
    key: SecretBytes,
    record: FileKeys,
    stored: Vec<u8>,
    /// As it was stored before it was overwritten.
    stored_before: Vec<u8>,
    now: Vec<u8>,
    before: Vec<u8>,
}

const SIZE: usize = 140 * BLOCK_LEN + 1000;

fn fixture() -> Fixture {
    let dir = std::env::temp_dir().join(format!("kmsfs-fuzz-file-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let root = File::open(&dir).expect("opens");
    let keys = || VolumeKeys::derive(Suite::Aes256Gcm, [3; 16], &SecretBytes::copy_of(&[1; 32]).expect("fits"));
    Sessions::create(root.as_fd(), &keys().state).expect("writes");
    let open = || {
        let sessions = Sessions::open(root.as_fd(), keys().state, false).expect("opens");
        let redo = Redo::new(root.as_fd(), sessions.crashed()).expect("a descriptor");
        Volume { keys: keys(), sessions, redo, durability: Durability::Safe }
    };
    let writer = Arc::new(open());
    writer.sessions.begin().expect("begins");
    let path = dir.join("file");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("makes");
    let fd = Arc::new(OwnedFd::from(file.try_clone().expect("a descriptor")));
    let key = SecretBytes::copy_of(&[9; 32]).expect("fits");
    let wrapping = Wrapping {
        provider: PROVIDER_CTYUN,
        key_id: "cmk".into(),
        key_version: "1".into(),
        blob: "a wrapped key".into(),
    };
    let mut scratch = Scratch::new();
    let mut content = Content::empty(writer, fd.clone());
    content.set_key(vec![wrapping], &key).expect("fits");
    let mut now = vec![0; SIZE];
    let write = |content: &mut Content, now: &mut Vec<u8>, off: usize, byte: u8, len: usize, scratch: &mut Scratch| {
        now[off..off + len].fill(byte);
        content.write_at(off as u64, &vec![byte; len], scratch, None).expect("writes");
    };
    write(&mut content, &mut now, 0, 1, 3 * BLOCK_LEN, &mut scratch);
    write(&mut content, &mut now, 33 * BLOCK_LEN, 2, 4 * BLOCK_LEN, &mut scratch);
    write(&mut content, &mut now, SIZE - 500, 3, 500, &mut scratch);
    content.sync().expect("syncs");
    let (before, stored_before) = (now.clone(), std::fs::read(&path).expect("reads"));
    write(&mut content, &mut now, BLOCK_LEN, 4, BLOCK_LEN, &mut scratch);
    write(&mut content, &mut now, 34 * BLOCK_LEN, 5, 100, &mut scratch);
    write(&mut content, &mut now, 70 * BLOCK_LEN, 6, 100, &mut scratch);
    let stored = std::fs::read(&path).expect("reads");
    // As after a crash: nothing of it is done with.
    std::mem::forget(content);
    let volume = Arc::new(open());
    let Ok(Inspected::Keyed(keyed)) = inspect(&volume, fd.as_fd()) else { panic!("it has a header") };
    let record = FileKeys::derive(Suite::Aes256Gcm, [3; 16], keyed.header.file_id, &key);
    Fixture { volume, file: fd, key, record, stored, stored_before, now, before }
}

thread_local! {
    static FIXTURE: Fixture = fixture();
}

fuzz_target!(|edits: Vec<Edit>| {
    FIXTURE.with(|fixture| {
        let file = File::from(fixture.file.try_clone().expect("a descriptor"));
        file.set_len(0).expect("cuts");
        file.write_all_at(&fixture.stored, 0).expect("writes");
        edits.iter().take(20).for_each(|edit| apply(fixture, &file, edit));
        mount(fixture);
        check(fixture);
    });
});

fn apply(fixture: &Fixture, file: &File, edit: &Edit) {
    let len = fixture.stored.len() as u64;
    let slot = |n: u8| match u64::from(n) {
        n @ 0..30 => 2048 + 64 * n,
        n => 31 * BLOCK + 64 * (n % 64),
    };
    // What is read may lie behind a cut: then it is zero.
    let read = |at: u64, n: usize| {
        let mut bytes = vec![0; n];
        let _ = file.read_at(&mut bytes, at);
        bytes
    };
    match *edit {
        Edit::Xor { off, with } => {
            let at = u64::from(off) % len;
            file.write_all_at(&[read(at, 1)[0] ^ with], at).expect("writes");
        }
        Edit::Zero { page } => {
            file.write_all_at(&[0; BLOCK_LEN], u64::from(page) % (len / BLOCK) * BLOCK).expect("writes")
        }
        Edit::Len(new) => file.set_len(new % (1 << 36)).expect("sets"),
        Edit::LenOf(size) => file.set_len(stored_len(size % (1 << 36))).expect("sets"),
        Edit::Slot { from, to, half } => {
            let bytes = read(slot(from), 64);
            let (bytes, at) = if half { (&bytes[..32], slot(to) + 32) } else { (&bytes[..], slot(to)) };
            file.write_all_at(bytes, at).expect("writes");
        }
        Edit::Record { session, sparse, newest, size, synced } => {
            // Every block of a file that is not sparse is read, whether it is there or not.
            let size = size % if sparse { 1 << 36 } else { 1 << 24 };
            let (session, epoch, seals) = (session.into(), 0, 0);
            let record = Record { session, epoch, sparse, newest, size, synced: synced.min(size), seals };
            file.write_all_at(&record.to_bytes(&fixture.record.record), RECORD_AT as u64).expect("writes");
        }
        Edit::Map { m, bits } => {
            let m = usize::from(m % 16);
            let bytes = map_record_to_bytes(&fixture.record.record, 0, m, &bits);
            file.write_all_at(&bytes, 31 * BLOCK + 64 * m as u64).expect("writes");
        }
        Edit::Before { page } => {
            let at = usize::from(page) % (fixture.stored_before.len() / BLOCK_LEN) * BLOCK_LEN;
            file.write_all_at(&fixture.stored_before[at..at + BLOCK_LEN], at as u64).expect("writes");
        }
    }
}

/// Whether these bytes were once written at the block, or were a hole there.
fn was_there(fixture: &Fixture, block: u64, bytes: &[u8]) -> bool {
    let whole = |of: &[u8]| {
        let at = of.len().min(block as usize * BLOCK_LEN);
        let mut block = of[at..of.len().min(at + BLOCK_LEN)].to_vec();
        block.resize(BLOCK_LEN, 0);
        block
    };
    let zeros = bytes.iter().all(|&b| b == 0);
    zeros || [&fixture.now, &fixture.before].iter().any(|of| whole(of)[..bytes.len()] == *bytes)
}

/// Blocks that are looked at in a file of any size.
fn some_blocks(size: u64) -> impl Iterator<Item = u64> {
    let end = blocks(size);
    (0..end.min(200)).chain(end.saturating_sub(3).max(200)..end)
}

fn mount(fixture: &Fixture) {
    let Ok(Inspected::Keyed(keyed)) = inspect(&fixture.volume, fixture.file.as_fd()) else { return };
    let opened = Content::open(fixture.volume.clone(), fixture.file.clone(), false, *keyed, &fixture.key);
    let Ok(content) = opened else { return };
    let mut scratch = Scratch::new();
    for block in some_blocks(content.size()) {
        if let Ok(range) = content.read_at(block * BLOCK, BLOCK_LEN, &mut scratch) {
            let bytes = &scratch.data(range.end)[range];
            assert!(was_there(fixture, block, bytes), "block {block} reads as what never was there");
        }
    }
    let _ = (content.seek(0, true), content.seek(0, false), content.seek(content.size() / 2, true));
}

fn check(fixture: &Fixture) {
    let view = fixture.volume.view();
    let Ok(Some(head)) = look_at_head(view, fixture.file.as_fd()) else { return };
    let Ok(exam) = Exam::new(view, fixture.file.as_fd(), &head, &fixture.key) else { return };
    let mut found = Troubles::default();
    let mut buf = Buffer::default();
    let (mut block, end) = (0, exam.blocks_there());
    while block < end {
        let part = exam.next_part(block, end, &mut found).expect("reads");
        if part.is_empty() {
            break;
        }
        block = part.end;
        let looked = exam.look(part, Depth::Blocks, &mut buf, &mut found, &mut |first, plain| {
            for (n, bytes) in plain.chunks(BLOCK_LEN).enumerate() {
                assert!(was_there(fixture, first + n as u64, bytes), "block {first} + {n} never was so");
            }
            Ok(())
        });
        looked.expect("reads");
    }
    assert!(found.seen == end, "{} of {end} blocks were looked at", found.seen);
    exam.bad_maps().expect("reads");
    exam.tail_is_empty().expect("reads");
}
