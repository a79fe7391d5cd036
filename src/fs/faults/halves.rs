//! Paths that one fault in one place leads to, each with its story.

use std::cell::Cell;

use super::*;
use rig::Setup;

/// Runs `work` while `fails` says which calls do.
fn under<T>(
    world: &mut World,
    mut fails: impl FnMut(Call) -> Option<Errno> + 'static,
    work: impl FnOnce(&mut World) -> T,
) -> T {
    tap::fail(Some(Box::new(move |call| fails(call).map(Fault::Error))));
    let out = work(world);
    tap::fail(None);
    out
}

/// The first `n` calls of a kind work, then one fails.
fn nth(kind: Call, n: usize) -> impl FnMut(Call) -> Option<Errno> + 'static {
    let mut seen = 0;
    move |call| {
        seen += usize::from(call == kind);
        (call == kind && seen == n + 1).then_some(Errno::IO)
    }
}

fn all(kind: Call) -> impl FnMut(Call) -> Option<Errno> + 'static {
    move |call| (call == kind).then_some(Errno::IO)
}

/// A file of `len` bytes that were fsynced.
fn synced(world: &mut World, path: &str, len: usize) {
    world.create(path);
    world.write(path, 0, len);
    world.fsync(path);
}

/// A write that fails: what is there is old or new in each block.
fn write_in_vain(world: &mut World, path: &str, off: usize, len: usize) -> i32 {
    let value = world.new_value();
    let file = world.file(path);
    let failed = world.rig.write(path, off as u64, &vec![value; len]).expect_err("the write fails").errno();
    world.files[file].write(off, len, value);
    world.did("a write that failed".into());
    world.files[file].now = read(world, path);
    failed
}

fn fsync_in_vain(world: &mut World, path: &str) {
    assert_eq!(world.rig.fsync(path).expect_err("the fsync fails").errno(), libc::EIO);
    world.did("an fsync that failed".into());
}

fn read(world: &World, path: &str) -> Vec<u8> {
    let found = tap::fail(None);
    let seen = rig::look_at(world.rig.fs()).expect("all can be looked at");
    tap::fail(found);
    match &seen.names[path.as_bytes()] {
        FoundObject::File { seen: Some(seen), .. } => seen.iter().map(|byte| byte.expect("it can be read")).collect(),
        _ => panic!("{path} is no file that can be opened"),
    }
}

fn reads_right(world: &World, path: &str) {
    let (seen, wanted) = (read(world, path), &world.files[world.file(path)].now);
    let differ = seen.iter().zip(wanted).position(|(a, b)| a != b);
    assert!(seen == *wanted, "{path} has {} bytes of {}, and differs at {differ:?}", seen.len(), wanted.len());
}

/// Now, and in the next mount.
fn reads_right_for_good(world: &mut World, path: &str) {
    reads_right(world, path);
    world.remount();
    reads_right(world, path);
}

/// The mount has ended, its session has not.
fn mount_after_an_unclean_end(world: &mut World) {
    let (path, setup) = (world.rig.path().to_owned(), world.rig.setup.clone());
    let (nothing, text) = rig::check_says(&path, &setup, false);
    assert!(!nothing && text.contains("did not end cleanly"), "{text}");
    world.rig.end_and_mount().expect("mounts");
}

/// Power cuts at every moment.
fn survives_cuts(world: World) {
    world.end().judge(16, 8, 1);
}

fn calls_of(log: &[tap::Change], is: impl Fn(&tap::Change) -> bool) -> usize {
    log.iter().filter(|change| is(change)).count()
}

/// What could not be written to the backing in the background is told by `fsync` and tried again, and reads show it meanwhile.
#[test]
fn a_second_half_that_fails_waits_on() {
    let mut world = World::new(&Setup::safe());
    synced(&mut world, "f", 60_000);
    world.write("f", 4096, 9000);
    under(&mut world, all(Call::Write), |world| {
        fsync_in_vain(world, "f");
        assert!(world.rig.fs().end_rounds(std::time::Duration::ZERO).is_err());
        // Closing is no end of it.
        world.close("f");
        assert!(world.rig.fs().end_rounds(std::time::Duration::ZERO).is_err());
    });
    reads_right(&world, "f");
    world.end_rounds();
    world.fsync("f");
    reads_right_for_good(&mut world, "f");
    survives_cuts(world);
}

/// Holes that wait to be punched give their space to a write that finds none.
#[test]
fn a_full_disk_gets_the_space_of_punches_that_wait() {
    let mut world = World::new(&Setup::safe());
    synced(&mut world, "f", 300_000);
    world.punch("f", 40_960, 81_920);
    let full = Rc::new(Cell::new(true));
    let disk = full.clone();
    let fails = move |call| {
        if call == Call::Punch {
            disk.set(false);
        }
        (call == Call::Write && disk.get()).then_some(Errno::NOSPC)
    };
    world.create("other");
    under(&mut world, fails, |world| world.write("other", 0, 20_000));
    assert!(!full.get(), "nothing was punched");
    world.fsync("other");
    reads_right(&world, "other");
    reads_right(&world, "f");
    survives_cuts(world);
}

/// One request that overwrites more than the redo file takes: rounds are ended in the middle of it.
#[test]
fn a_write_larger_than_the_redo_file_is_written() {
    let mut world = World::new(&Setup::safe());
    synced(&mut world, "f", 70 << 20);
    world.write("f", 5000, (70 << 20) - 9000);
    world.fsync("f");
    reads_right_for_good(&mut world, "f");
}

/// More files than are synced one by one: one `syncfs`, and if it fails all of them wait on.
#[test]
fn rounds_of_many_files_share_a_sync() {
    let mut world = World::new(&Setup::safe());
    let files: Vec<String> = (0..6).map(|n| format!("f{n}")).collect();
    for file in &files {
        synced(&mut world, file, 10_000);
        world.write(file, 4096, 4096);
    }
    under(&mut world, all(Call::SyncAll), |world| {
        assert!(world.rig.fs().end_rounds(std::time::Duration::ZERO).is_err());
    });
    files.iter().for_each(|file| reads_right(&world, file));
    world.end_rounds();
    files.iter().for_each(|file| world.fsync(file));
    files.iter().for_each(|file| reads_right(&world, file));
    let story = world.end();
    story.judge(4, 3, 1);
    let (syncs, failed) = (
        calls_of(&story.log, |change| matches!(change, tap::Change::SyncAll)),
        calls_of(&story.log, |change| matches!(change, tap::Change::SyncFailed { ino: None })),
    );
    assert_eq!((syncs, failed), (1, 1));
}

/// More waiting files than may hold a descriptor: their rounds end without being asked for.
#[test]
fn too_many_waiting_files_end_their_rounds() {
    let mut world = World::new(&Setup::safe());
    for n in 0..514 {
        let file = format!("f{n}");
        synced(&mut world, &file, 100);
        let before = tap::recorded();
        world.write(&file, 0, 50);
        world.close(&file);
        if n < 512 {
            assert!(tap::recorded() < before + 9, "file {n} ends a round");
        }
    }
    let log = world.end().log;
    assert_eq!(calls_of(&log, |change| matches!(change, tap::Change::SyncAll)), 1);
}

/// A session whose number could not be stored is not begun; the old one goes on.
#[test]
fn a_session_number_that_cannot_be_stored_is_not_used() {
    let mut world = World::new(&Setup::safe());
    synced(&mut world, "f", 60_000);
    let number = world.rig.fs().volume().sessions.current();
    for kind in [Call::Make, Call::Rename] {
        under(&mut world, all(kind), |world| assert!(world.rig.fs().rotate_session().is_err()));
        assert_eq!(world.rig.fs().volume().sessions.current(), number);
        world.write("f", 4096, 5000);
        world.fsync("f");
    }
    world.rotate();
    assert!(world.rig.fs().volume().sessions.current() > number);
    world.append("f", 5000);
    world.fsync("f");
    world.remount();
    reads_right(&world, "f");
    survives_cuts(world);
}

/// Files that stay open keep places whose pages are issued: a sync of everything frees them for others.
#[test]
fn places_of_idle_files_serve_others() {
    let mut world = World::new(&Setup::safe());
    for file in ["a", "b", "c"] {
        synced(&mut world, file, 24 << 20);
    }
    for file in ["a", "b", "c"] {
        world.write(file, 0, 23 << 20);
        world.fsync(file);
    }
    for file in ["a", "b", "c"] {
        world.write(file, 4096, 5000);
        world.fsync(file);
        reads_right(&world, file);
    }
}

/// No redo file can be made: overwriting what is durable fails and changes nothing. One that cannot grow serves again
/// and again.
#[test]
fn a_redo_file_that_cannot_grow_serves_again() {
    let mut world = World::new(&Setup::safe());
    synced(&mut world, "f", 9 << 20);
    let full = |call| (call == Call::Allocate).then_some(Errno::NOSPC);
    let failed = under(&mut world, full, |world| write_in_vain(world, "f", 4096, 5000));
    assert_eq!(failed, libc::ENOSPC);
    reads_right(&world, "f");
    // A step of 1008 places: 4 MiB.
    world.write("f", 4096, 5000);
    under(&mut world, full, |world| world.write("f", 8192, 8 << 20));
    reads_right(&world, "f");
    world.fsync("f");
    reads_right_for_good(&mut world, "f");
}

/// The record could not be written at the last close, and it would have said that the newer version of a slot is not
/// always the good one: the session stays in the list, so nobody believes what the stored record says.
#[test]
fn a_record_that_fails_at_close_leaves_the_session_open() {
    let mut world = World::new(&Setup::safe());
    synced(&mut world, "f", 60_000);
    // Seals that the record does not count yet; its write is the only one of the close.
    under(&mut world, nth(Call::Write, 1), |world| write_in_vain(world, "f", 4096, 5000));
    under(&mut world, all(Call::Write), |world| {
        let closed = world.rig.close("f");
        // What waits keeps the file open: its end tells nobody.
        world.did(format!("close: {closed:?}"));
        world.rig.end();
    });
    mount_after_an_unclean_end(&mut world);
    reads_right(&world, "f");
}

/// The slots of a group of a hole could not be written: its other blocks are the holes that they were.
#[test]
fn a_group_whose_slots_could_not_be_written_is_not_complete() {
    for durable in [false, true] {
        for n in 0..3 {
            let mut world = World::new(&Setup::safe());
            world.create("f");
            world.set_len("f", 1_500_000);
            if durable {
                world.fsync("f");
                world.write("f", 300_000, 5000);
                under(&mut world, nth(Call::Write, n), |world| drop(world.rig.fsync("f")));
            } else {
                under(&mut world, nth(Call::Write, n), |world| drop(world.rig.write("f", 300_000, &[1; 5000])));
            }
            let seen = read(&world, "f");
            assert!(seen[..299_008].iter().chain(&seen[308_000..]).all(|&byte| byte == 0), "{durable} {n}");
            world.write("f", 300_000, 5000);
            world.fsync("f");
            reads_right_for_good(&mut world, "f");
        }
    }
}

/// Slots that a failed write left behind the end could not be emptied either: they are once it works, before the file
/// grows over them.
#[test]
fn slots_that_could_not_be_emptied_are_emptied_later() {
    let mut world = World::new(&Setup::safe());
    synced(&mut world, "f", 16_384);
    under(&mut world, nth(Call::Write, 1), |world| write_in_vain(world, "f", 16_384, 130_000));
    under(&mut world, all(Call::Write), |world| write_in_vain(world, "f", 16_384, 5));
    world.fsync("f");
    world.append("f", 3000);
    world.fsync("f");
    reads_right(&world, "f");
    survives_cuts(world);
}

/// A smaller size whose record could not be written does not come to the disk with slots that are written later.
#[test]
fn a_record_that_failed_does_not_go_with_slots() {
    let mut world = World::new(&Setup::safe());
    world.create("f");
    world.write("f", 0, 60_000);
    under(&mut world, all(Call::Write), |world| {
        assert!(world.rig.set_len("f", 5000).is_err());
    });
    world.write("f", 0, 4096);
    world.fsync("f");
    reads_right_for_good(&mut world, "f");
    survives_cuts(world);
}

/// What a failed append wrote into the last block is not shown when the file grows.
#[test]
fn what_a_failed_append_left_does_not_show() {
    for n in 0..4 {
        for kind in [Call::Write, Call::SetLen] {
            let mut world = World::new(&Setup::safe());
            synced(&mut world, "f", 100);
            under(&mut world, nth(kind, n), |world| drop(world.rig.write("f", 100, &[99; 3000])));
            world.set_len("f", 100);
            world.set_len("f", 5000);
            reads_right_for_good(&mut world, "f");
        }
    }
}

/// A size whose length could not be set is taken back: once the session has ended, the file would count as one that was
/// cut, and nobody could open it.
#[test]
fn a_size_whose_length_could_not_be_set_is_taken_back() {
    for record_fails in [false, true] {
        let mut world = World::new(&Setup::safe());
        synced(&mut world, "f", 5000);
        let mut lengths = 0;
        let fails = move |call| {
            lengths += usize::from(call == Call::SetLen);
            (call == Call::SetLen || (record_fails && lengths > 0 && call == Call::Write)).then_some(Errno::FBIG)
        };
        under(&mut world, fails, |world| {
            assert_eq!(world.rig.set_len("f", 126_976).expect_err("no such length").errno(), libc::EFBIG);
        });
        world.did("a truncation that failed".into());
        reads_right(&world, "f");
        world.rotate();
        reads_right(&world, "f");
        if !record_fails {
            survives_cuts(world);
            continue;
        }
        world.fsync("f");
        world.remount();
        reads_right(&world, "f");
    }
}

/// A truncation to the size that the file has sets the length that could not be set, and so does `fsync`.
#[test]
fn a_length_that_could_not_be_set_is_set_later() {
    for by_fsync in [false, true] {
        let mut world = World::new(&Setup::safe());
        synced(&mut world, "f", 500_000);
        under(&mut world, all(Call::SetLen), |world| assert!(world.rig.set_len("f", 5000).is_err()));
        let file = world.file("f");
        world.files[file].set_len(5000);
        world.did("a cut whose length could not be set".into());
        if by_fsync {
            world.fsync("f");
        } else {
            world.set_len("f", 5000);
        }
        let stored = std::fs::metadata(world.rig.path().join("f")).expect("plain names").len();
        assert_eq!(stored, crate::format::layout::stored_len(5000));
        reads_right(&world, "f");
        survives_cuts(world);
    }
}

/// A directory that was made, could not be looked at and could not be removed again is there under its name.
#[test]
fn a_directory_that_cannot_be_taken_back_keeps_its_long_name() {
    let mut world = World::new(&Setup::encrypted_names());
    let name = "long-".repeat(40);
    under(
        &mut world,
        |call| (!call.changes() || call == Call::Remove).then_some(Errno::IO),
        |world| {
            assert!(world.rig.mkdir(&name).is_err());
        },
    );
    let found = rig::look_at(world.rig.fs()).expect("all can be looked at");
    let (path, setup) = (world.rig.path().to_owned(), world.rig.setup.clone());
    world.rig.end();
    let (nothing, text) = rig::check_says(&path, &setup, false);
    assert!(nothing, "{text}");
    assert!(found.names.len() <= 1);
}

/// What was written before a close is issued again too, if a sync after it fails.
#[test]
fn a_sync_that_fails_after_a_close_counts_for_what_was_written_before() {
    let mut world = World::new(&Setup::safe());
    world.create("f");
    world.write("f", 0, 40_000);
    world.close("f");
    under(&mut world, all(Call::Sync), |world| fsync_in_vain(world, "f"));
    world.fsync("f");
    survives_cuts(world);
}

/// The first halves that a failed sync has not made durable are issued again before the second halves are.
#[test]
fn a_sync_after_one_that_failed_issues_all_again() {
    for n in 0..2 {
        let mut world = World::new(&Setup::safe());
        synced(&mut world, "f", 60_000);
        world.punch("f", 20_480, 4096);
        world.write("f", 4096, 9000);
        world.append("f", 9000);
        under(&mut world, nth(Call::Sync, n), |world| fsync_in_vain(world, "f"));
        world.fsync("f");
        reads_right(&world, "f");
        survives_cuts(world);
    }
}

/// An `fsync` that succeeds after one that failed has written everything again that the first was to write.
#[test]
fn new_data_is_durable_after_a_second_fsync() {
    let mut world = World::new(&Setup::safe());
    world.create("f");
    world.write("f", 0, 400_000);
    under(&mut world, all(Call::Sync), |world| {
        fsync_in_vain(world, "f");
        fsync_in_vain(world, "f");
    });
    world.fsync("f");
    survives_cuts(world);
}

/// The file was closed after its fsync failed: it is issued again all the same.
#[test]
fn a_file_whose_sync_failed_stays_open_until_it_is_durable() {
    let mut world = World::new(&Setup::safe());
    world.create("f");
    world.write("f", 0, 40_000);
    under(&mut world, nth(Call::Sync, 0), |world| fsync_in_vain(world, "f"));
    world.close("f");
    world.end_rounds();
    let file = world.file("f");
    world.durable("the round's end".into(), Settles::All, file..file + 1);
    survives_cuts(world);
}

/// The system tells an error of the redo file to whoever syncs first; it counts for the others too.
#[test]
fn a_failed_sync_of_the_redo_file_counts_for_all_files() {
    let mut world = World::new(&Setup::safe());
    for file in ["a", "b"] {
        synced(&mut world, file, 20_000);
        world.write(file, 4096, 4096);
    }
    under(&mut world, nth(Call::Sync, 0), |world| fsync_in_vain(world, "a"));
    world.fsync("b");
    reads_right(&world, "b");
    world.fsync("a");
    survives_cuts(world);
}

/// The page of a block that was fsynced could not be written back: the redo file keeps it until it is.
#[test]
fn places_are_kept_until_their_pages_are_durable() {
    let mut world = World::new(&Setup::safe());
    synced(&mut world, "f", 20_000);
    world.write("f", 4096, 4096);
    world.fsync("f");
    // The page was issued by that fsync; the next barrier is the first that covers it.
    under(&mut world, all(Call::Sync), |world| fsync_in_vain(world, "f"));
    for _ in 0..3 {
        world.fsync("f");
        world.write("f", 12_288, 4096);
        world.fsync("f");
    }
    reads_right(&world, "f");
    survives_cuts(world);
}

/// The same where nobody issues the page again before the mount ends: the session does not end, and the next mount reads
/// the redo file.
#[test]
fn a_session_with_pages_in_the_redo_file_alone_does_not_end() {
    for closed in [false, true] {
        let mut world = World::new(&Setup::safe());
        synced(&mut world, "f", 20_000);
        world.write("f", 4096, 4096);
        world.fsync("f");
        if closed {
            world.close("f");
        }
        world.end_rounds();
        under(&mut world, nth(Call::SyncAll, 0), |world| {
            assert!(world.rig.fs().volume().redo.syncfs().is_err());
            world.did("a syncfs that failed".into());
            world.rig.end();
        });
        let logged = tap::recorded();
        mount_after_an_unclean_end(&mut world);
        reads_right(&world, "f");
        world.rig.end();
        let mut story = world.end();
        story.log.truncate(logged);
        story.judge(16, 8, 1);
    }
}

/// What a daemon may not list it cannot sync alone: it syncs the whole backing before it promises a file in there.
#[test]
fn a_directory_that_may_not_be_listed_is_synced_with_all_others() {
    let mut world = World::new(&Setup::encrypted_names());
    world.mkdir("d");
    world.create("d/f");
    world.write("d/f", 0, 9000);
    under(&mut world, |call| (call == Call::Open).then_some(Errno::ACCESS), |world| world.fsync("d/f"));
    let mut story = world.end();
    assert!(calls_of(&story.log, |change| matches!(change, tap::Change::SyncAll)) > 0);
    story.order = NameOrder::Log;
    story.judge(16, 8, 1);
}

/// A file was made in a new directory, which is gone before the file is synced under another name.
#[test]
fn a_directory_that_is_gone_needs_no_sync() {
    let mut world = World::new(&Setup::encrypted_names());
    world.mkdir("d");
    world.mkdir("e");
    world.create("d/f");
    world.write("d/f", 0, 9000);
    world.rename("d/f", "e/f");
    world.remove("d");
    world.fsync("e/f");
    let mut story = world.end();
    story.order = NameOrder::Log;
    story.judge(16, 8, 1);
}
