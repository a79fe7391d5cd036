//! What programs do, and cuts at every moment of it.

use super::rig::Setup;
use super::*;

/// Runs a workload and judges it; says how much that was.
fn judge_workload(name: &str, setup: &Setup, work: impl Fn(&mut World)) {
    let mut world = World::new(setup);
    work(&mut world);
    let count = world.end().judge(64, 12 * runs() as usize, 1);
    println!("{name}: {} cuts in {} states, all states of {}", count.points, count.states, count.exhausted);
}

/// A workload, and on what kind of volume it runs.
pub struct Workload {
    pub name: &'static str,
    pub setup: Setup,
    pub work: fn(&mut World),
}

pub fn all() -> Vec<Workload> {
    let plain = |name, work| Workload { name, setup: Setup::safe(), work };
    let encrypted = |name, work| Workload { name, setup: Setup::encrypted_names(), work };
    vec![
        plain("append log", append_log),
        plain("random overwrites", random_overwrites),
        plain("cut and append", cut_and_append),
        plain("holes", holes),
        plain("editor", editor),
        encrypted("editor", editor),
        plain("untar", untar),
        encrypted("untar", untar),
        encrypted("long names", long_names),
        encrypted("new directories", new_directories),
        plain("database", database),
        plain("sessions", sessions),
        plain("emptied", emptied),
        plain("re-wrapped headers", rewrapped_headers),
    ]
}

/// `fsync` of a file in new directories makes the file's path durable, on any backing whose own `fsync` does so.
#[test]
fn names_that_only_their_own_sync_makes_durable() {
    for Workload { name, setup, work } in all() {
        let mut world = World::new(&setup);
        work(&mut world);
        let story = Story { order: NameOrder::Log, ..world.end() };
        let count = story.judge(16, 4 * runs() as usize, 2);
        println!("{name}: {} cuts in {} states", count.points, count.states);
    }
}

#[test]
fn an_append_log_with_fsync() {
    judge_workload("append log", &Setup::safe(), append_log);
}

pub fn append_log<V: Volume>(world: &mut World<V>) {
    world.create("log");
    for n in 0..12 {
        world.append("log", [100, 3000, 4096, 9000][n % 4]);
        world.fsync("log");
    }
}

/// After a power cut, bytes that were fsynced read as fsynced or as written later.
#[test]
fn random_overwrites_with_fsync() {
    judge_workload("random overwrites", &Setup::safe(), random_overwrites);
}

pub fn random_overwrites<V: Volume>(world: &mut World<V>) {
    world.create("data");
    world.write("data", 0, 300_000);
    world.fsync("data");
    let mut random = Random(3);
    for n in 0..14 {
        world.write("data", random.below(290_000) as usize, [1, 4096, 600, 9000][n % 4]);
        if n % 3 == 2 {
            world.fsync("data");
        }
    }
}

/// With `-o durability=fast` a block that was being overwritten during a power cut may be lost, fsynced before or not.
#[test]
fn fast_loses_what_safe_keeps() {
    let fast = Setup { durability: crate::durable::Durability::Fast, ..Setup::safe() };
    let lost = std::panic::catch_unwind(|| judge_workload("fast", &fast, random_overwrites));
    assert!(lost.is_err(), "the cuts would show what the halves are for");
}

#[test]
fn appends_inside_a_block_that_had_a_longer_end() {
    judge_workload("cut and append", &Setup::safe(), cut_and_append);
}

fn cut_and_append(world: &mut World) {
    world.create("f");
    world.write("f", 0, 20_000);
    world.fsync("f");
    for (len, more) in [(18_000, 500), (9_000, 4096), (8_500, 1), (130_000, 10), (4097, 9000)] {
        world.set_len("f", len);
        world.append("f", more);
        world.fsync("f");
    }
}

/// Header, record and slots of a file of one group and more; holes that are filled, groups that become complete.
#[test]
fn holes_filled_and_punched() {
    judge_workload("holes", &Setup::safe(), holes);
}

fn holes(world: &mut World) {
    world.create("f");
    world.set_len("f", 1_500_000);
    world.fsync("f");
    world.write("f", 300_000, 5000);
    world.fsync("f");
    world.write("f", 310_000, 90_000);
    world.write("f", 1_200_000, 4096);
    world.end_rounds();
    world.punch("f", 299_008, 40_960);
    world.fsync("f");
    world.write("f", 303_104, 4096);
    world.punch("f", 0, 1_500_000);
    world.write("f", 8192, 9000);
    world.fsync("f");
    world.write("f", 0, 1_500_000);
    world.fsync("f");
}

/// What editors do: a new file beside the old one, synced, in its place.
#[test]
fn an_editor_saves() {
    for setup in [Setup::safe(), Setup::encrypted_names()] {
        judge_workload("editor", &setup, editor);
    }
}

fn editor(world: &mut World) {
    world.mkdir("d");
    world.create("d/text");
    world.write("d/text", 0, 6000);
    world.fsync("d/text");
    for _ in 0..3 {
        world.create("d/.text.swp");
        world.write("d/.text.swp", 0, 7000);
        world.fsync("d/.text.swp");
        world.close("d/.text.swp");
        world.rename("d/.text.swp", "d/text");
        world.fsync_dir("d");
    }
}

/// After a power cut, bytes that were never fsynced may be missing, zero, or EIO, and are never other data.
#[test]
fn a_tree_is_unpacked() {
    for setup in [Setup::safe(), Setup::encrypted_names()] {
        judge_workload("untar", &setup, untar);
    }
}

fn untar(world: &mut World) {
    for dir in 0..3 {
        world.mkdir(&format!("dir{dir}"));
        for file in 0..4 {
            let path = format!("dir{dir}/file{file}");
            world.create(&path);
            world.write(&path, 0, [10, 5000, 40_000, 140_000][file]);
            world.close(&path);
        }
        world.symlink(&format!("dir{dir}/link"), "file1");
    }
    world.link("dir0/file1", "dir2/hard");
    world.fsync("dir1/file2");
    world.remount();
}

#[test]
fn names_long_and_short() {
    judge_workload("long names", &Setup::encrypted_names(), long_names);
}

fn long_names(world: &mut World) {
    let long = |n: usize| format!("{n}{}", "-long".repeat(40));
    world.mkdir("a");
    world.mkdir(&format!("a/{}", long(1)));
    let inner = format!("a/{}/{}", long(1), long(2));
    world.create(&inner);
    world.write(&inner, 0, 100);
    world.fsync(&inner);
    world.rename(&inner, "a/short");
    world.rename("a/short", &format!("a/{}", long(3)));
    world.create("a/new");
    world.write("a/new", 0, 200);
    world.fsync("a/new");
    world.rename("a/new", &format!("a/{}", long(3)));
    world.symlink(&format!("a/{}", long(4)), &"target/".repeat(500));
    world.rename(&format!("a/{}", long(4)), "link");
    world.remove("link");
    world.remove(&format!("a/{}", long(3)));
    world.remove(&format!("a/{}", long(1)));
    world.remove("a");
}

/// Files that are synced, by programs or by a round that ends, in directories that nobody synced.
#[test]
fn directories_that_nobody_synced() {
    judge_workload("new directories", &Setup::encrypted_names(), new_directories);
}

fn new_directories(world: &mut World) {
    let long = |n: usize| format!("{n}{}", "-long".repeat(40));
    world.mkdir("a");
    world.mkdir("a/b");
    world.mkdir("a/b/c");
    world.create("a/b/c/f");
    world.write("a/b/c/f", 0, 5000);
    world.fsync("a/b/c/f");
    world.link("a/b/c/f", &format!("a/{}", long(1)));
    world.fsync("a/b/c/f");
    world.mkdir(&long(2));
    world.mkdir(&format!("{}/d", long(2)));
    world.rename("a/b", &format!("{}/d/b", long(2)));
    let moved = format!("{}/d/b/c/f", long(2));
    world.close("a/b/c/f");
    world.append(&moved, 100);
    world.fsync(&moved);
    // A file that its program does not sync: a round does.
    world.mkdir("e");
    world.create("e/g");
    world.write("e/g", 0, 9000);
    world.tend();
    world.write("e/g", 100, 10);
    world.end_rounds();
    world.mkdir("h");
    world.create("h/i");
    world.write("h/i", 0, 9000);
    world.tend();
    world.set_len("h/i", 5000);
    world.append("h/i", 10);
    world.mkdir("h/j");
    world.create(&format!("h/j/{}", long(3)));
    world.fsync_dir("h/j");
}

/// A rollback journal as sqlite writes it, and a log as in WAL mode.
#[test]
fn a_database_commits() {
    judge_workload("database", &Setup::safe(), database);
}

pub fn database<V: Volume>(world: &mut World<V>) {
    world.create("db");
    world.write("db", 0, 40_960);
    world.fsync("db");
    for page in [3, 7, 0] {
        world.create("db-journal");
        world.write("db-journal", 0, 512);
        world.append("db-journal", 4096 + 8);
        world.fsync("db-journal");
        world.write("db-journal", 0, 28);
        world.fsync("db-journal");
        world.write("db", page * 4096, 4096);
        world.write("db", 0, 4096);
        world.fsync("db");
        world.remove("db-journal");
        world.fsync_dir("");
    }
    world.create("db-wal");
    for _ in 0..4 {
        world.append("db-wal", 4096 + 24);
        world.fsync("db-wal");
    }
    world.write("db", 4096, 8192);
    world.fsync("db");
    world.write("db-wal", 0, 32);
    world.write("db-wal", 32, 4096 + 24);
    world.fsync("db-wal");
}

#[test]
fn sessions_change_under_load() {
    judge_workload("sessions", &Setup::safe(), sessions);
}

fn sessions(world: &mut World) {
    world.create("f");
    world.write("f", 0, 200_000);
    world.fsync("f");
    for n in 0..3 {
        world.write("f", 4096 * n, 10_000);
        world.rotate();
        world.write("f", 4096 * n, 10_000);
        world.append("f", 5000);
        world.fsync("f");
    }
    world.write("f", 100_000, 10);
    world.remount();
    world.write("f", 100_000, 10);
    world.append("f", 10);
    world.close("f");
    world.end_rounds();
}

#[test]
fn emptied_and_written_again() {
    judge_workload("emptied", &Setup::safe(), emptied);
}

fn emptied(world: &mut World) {
    world.create("f");
    for len in [100, 130_000, 5000] {
        world.write("f", 0, len);
        world.fsync("f");
        world.write("f", 50, len / 2);
        world.set_len("f", 0);
        world.write("f", 0, len + 1);
        world.set_len("f", 0);
        world.fsync("f");
    }
}

/// Headers that are written anew: between mounts, after a daemon that died, and with much of the file on its way to the
/// disk. Whichever copy is torn, what was fsynced is there.
#[test]
fn headers_are_rewrapped() {
    judge_workload("re-wrapped headers", &Setup::safe(), rewrapped_headers);
}

fn rewrapped_headers(world: &mut World) {
    for (path, len) in [("small", 100), ("large", 150_000)] {
        world.create(path);
        world.write(path, 0, len);
        world.fsync(path);
    }
    world.remount();
    world.rewrap("small");
    world.rewrap("large");
    world.rewrap("small");
    // With bytes that nobody synced, in the head page and elsewhere.
    for path in ["small", "large"] {
        world.append(path, 5000);
        world.write(path, 50, 10);
        world.close(path);
        world.end_rounds();
        world.append(path, 3000);
        world.close(path);
        world.rewrap(path);
        world.append(path, 200);
        world.fsync(path);
    }
    // A daemon that died: what it wrote is with the kernel, and a round has not ended.
    world.write("large", 0, 9000);
    world.write("large", 130_000, 4096);
    world.append("small", 40);
    world.kill();
    world.rewrap("large");
    world.rewrap("small");
    world.write("large", 4096, 8192);
    world.fsync("large");
    world.remount();
    world.rewrap("large");
}
