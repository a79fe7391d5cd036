//! What programs do, with a fault at every call that it makes.

use super::*;
use rig::Setup;

/// Power cuts that are tried for each fault.
const CUTS: u64 = 3;

/// `KMSFS_FAULTS=n` makes every plan count where else one in three is tried, and tries n times as many power cuts.
fn runs() -> u64 {
    std::env::var("KMSFS_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// How calls fail, in turn: each for all calls that there are, those marked thin for some of them.
const PLANS: [(bool, bool, Fault, bool); 9] = [
    // lasting, reads, how, thin
    (false, false, Fault::Error(Errno::IO), false),
    (true, false, Fault::Error(Errno::IO), false),
    (false, true, Fault::Error(Errno::IO), false),
    (true, true, Fault::Error(Errno::IO), true),
    (false, false, Fault::Error(Errno::NOSPC), true),
    (true, false, Fault::Error(Errno::DQUOT), true),
    (true, false, Fault::Error(Errno::ROFS), true),
    (false, false, Fault::Torn(4096, Errno::IO), true),
    (false, false, Fault::Short(700), true),
];

/// Runs a workload with every fault; says how much that was.
fn judge(name: &str, setup: &Setup, steps: &[Step]) {
    let (mut trials, mut thin_at) = (0, 0);
    for (lasting, reads, how, thin) in PLANS {
        let nothing = Plan { first: usize::MAX, lasting, reads, how };
        let mut counting = Trial::new(name, setup, nothing);
        counting.run(steps);
        let calls = counting.course.borrow().asked;
        counting.end(0);
        for first in 0..calls {
            thin_at += usize::from(thin);
            if thin && thin_at % 3 != 0 && runs() == 0 {
                continue;
            }
            let mut trial = Trial::new(name, setup, Plan { first, ..nothing });
            trial.run(steps);
            trial.end(CUTS * runs().max(1));
            trials += 1;
        }
    }
    println!("{name}: {trials} faults");
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn write(path: &str, off: usize, len: usize) -> Step {
    Step::Write(text(path), off, len)
}

fn append(path: &str, len: usize) -> Step {
    Step::Append(text(path), len)
}

fn fsync(path: &str) -> Step {
    Step::Fsync(text(path))
}

fn create(path: &str) -> Step {
    Step::Create(text(path))
}

fn set_len(path: &str, len: usize) -> Step {
    Step::SetLen(text(path), len)
}

fn punch(path: &str, off: usize, len: usize) -> Step {
    Step::Punch(text(path), off, len)
}

fn close(path: &str) -> Step {
    Step::Close(text(path))
}

fn mkdir(path: &str) -> Step {
    Step::Mkdir(text(path))
}

fn remove(path: &str) -> Step {
    Step::Remove(text(path))
}

fn rename(from: &str, to: &str) -> Step {
    Step::Rename(text(from), text(to))
}

#[test]
fn faults_of_overwrites() {
    let steps = [
        create("data"),
        write("data", 0, 200_000),
        fsync("data"),
        write("data", 5000, 9000),
        write("data", 100_000, 4096),
        fsync("data"),
        write("data", 8192, 4096),
        write("data", 100_000, 40_000),
        Step::EndRounds,
        write("data", 100_000, 40_000),
        fsync("data"),
        close("data"),
    ];
    judge("overwrites", &Setup::safe(), &steps);
}

#[test]
fn faults_of_overwrites_in_fast() {
    // Power cuts cost what was being overwritten, so that is not tried.
    let fast = Setup { durability: crate::durable::Durability::Fast, ..Setup::safe() };
    let steps = [
        create("data"),
        write("data", 0, 200_000),
        fsync("data"),
        write("data", 5000, 9000),
        punch("data", 40_960, 8192),
        write("data", 45_056, 100),
        fsync("data"),
        set_len("data", 100_001),
        append("data", 5000),
    ];
    for (lasting, how) in [(false, Fault::Error(Errno::IO)), (true, Fault::Error(Errno::IO))] {
        for first in 0.. {
            let mut trial = Trial::new("fast", &fast, Plan { first, lasting, reads: false, how });
            trial.run(&steps);
            let struck = trial.struck.is_some();
            trial.end(0);
            if !struck {
                break;
            }
        }
    }
}

#[test]
fn faults_of_appends() {
    let mut steps = vec![create("log")];
    for n in 0..6 {
        steps.push(append("log", [100, 3000, 4096, 9000, 130_000, 5][n]));
        if n % 2 == 1 {
            steps.push(fsync("log"));
        }
    }
    judge("appends", &Setup::safe(), &steps);
}

#[test]
fn faults_of_cuts_and_growth() {
    let mut steps = vec![create("f"), write("f", 0, 20_000), fsync("f")];
    for (len, more) in [(18_000, 500), (9_000, 4096), (130_000, 10), (4097, 9000), (0, 70)] {
        steps.extend([set_len("f", len), append("f", more), fsync("f")]);
    }
    judge("cuts and growth", &Setup::safe(), &steps);
}

#[test]
fn faults_of_holes() {
    let steps = [
        create("f"),
        set_len("f", 1_500_000),
        fsync("f"),
        write("f", 300_000, 5000),
        fsync("f"),
        write("f", 310_000, 90_000),
        write("f", 1_200_000, 4096),
        Step::EndRounds,
        punch("f", 299_008, 40_960),
        fsync("f"),
        write("f", 303_104, 4096),
        punch("f", 0, 600_000),
        write("f", 8192, 9000),
        fsync("f"),
        set_len("f", 400_000),
        set_len("f", 900_000),
        write("f", 600_000, 100),
        fsync("f"),
    ];
    judge("holes", &Setup::safe(), &steps);
}

/// Nothing was ever synced: no halves.
#[test]
fn faults_of_fresh_holes() {
    let steps = [
        create("f"),
        set_len("f", 1_500_000),
        write("f", 300_000, 5000),
        write("f", 1_000_000, 100),
        punch("f", 299_008, 40_960),
        write("f", 310_000, 90_000),
        set_len("f", 500_000),
        write("f", 900_000, 10),
    ];
    judge("fresh holes", &Setup::safe(), &steps);
}

/// Maps of sparse files that are written as groups fill, and read, cut and written where a mount knows nothing of them yet.
#[test]
fn faults_of_maps() {
    // The groups of a region begin behind its first 30 blocks, and end at every 64th.
    let (first, group) = (30 * 4096, 64 * 4096);
    let steps = [
        create("f"),
        set_len("f", 1_500_000),
        write("f", first, group - first),
        write("f", 1_000_000, 100),
        fsync("f"),
        Step::Remount,
        set_len("f", 1_200_000),
        write("f", group, group),
        fsync("f"),
        Step::Remount,
        set_len("f", 600_000),
        append("f", 5000),
        fsync("f"),
        Step::Remount,
        set_len("f", 20_000),
        set_len("f", 700_000),
        write("f", first, 700_000 - first),
        fsync("f"),
    ];
    judge("maps", &Setup::safe(), &steps);
}

fn names() -> Vec<Step> {
    let long = |n: usize| format!("{n}{}", "-long".repeat(40));
    let inner = format!("a/{}/{}", long(1), long(2));
    let third = format!("a/{}", long(3));
    vec![
        mkdir("a"),
        mkdir(&format!("a/{}", long(1))),
        create(&inner),
        write(&inner, 0, 100),
        fsync(&inner),
        rename(&inner, "a/short"),
        rename("a/short", &third),
        create("a/new"),
        write("a/new", 0, 200),
        fsync("a/new"),
        Step::Link(text("a/new"), format!("a/{}", long(5))),
        rename("a/new", &third),
        Step::FsyncDir(text("a")),
        mkdir("b"),
        mkdir("c"),
        rename("b", "c"),
        remove(&third),
        remove(&format!("a/{}", long(5))),
        remove(&format!("a/{}", long(1))),
        remove("a"),
        remove("c"),
    ]
}

#[test]
fn faults_of_plain_names() {
    judge("plain names", &Setup::safe(), &names());
}

#[test]
fn faults_of_encrypted_names() {
    judge("encrypted names", &Setup::encrypted_names(), &names());
}

#[test]
fn faults_of_symlinks_and_xattrs() {
    let target = "target/".repeat(500);
    let steps = [
        mkdir("d"),
        mkdir("e"),
        Step::Symlink(text("d/link"), target.clone()),
        Step::Symlink(text("d/short"), text("there")),
        Step::Link(text("d/link"), text("d/other")),
        rename("d/link", "e/link"),
        remove("d/other"),
        rename("d/short", "e/link"),
        create("d/file"),
        Step::SetXattr(text("d/file"), "user.one", 100),
        Step::SetXattr(text("d/file"), "user.two", 30),
        Step::SetXattr(text("d/file"), "user.one", 200),
        Step::RemoveXattr(text("d/file"), "user.two"),
        Step::FsyncDir(text("d")),
        remove("e/link"),
    ];
    judge("symlinks and xattrs", &Setup::encrypted_names(), &steps);
}

#[test]
fn faults_of_sessions() {
    let steps = [
        create("f"),
        write("f", 0, 60_000),
        fsync("f"),
        write("f", 4096, 10_000),
        Step::Rotate,
        write("f", 4096, 10_000),
        append("f", 5000),
        Step::Rotate,
        write("f", 50_000, 10),
        Step::Remount,
        write("f", 50_000, 10),
        append("f", 10),
        close("f"),
        Step::EndRounds,
        Step::Remount,
        append("f", 7000),
    ];
    judge("sessions", &Setup::safe(), &steps);
}

/// A rollback journal as sqlite writes it.
#[test]
fn faults_of_a_database() {
    let mut steps = vec![create("db"), write("db", 0, 40_960), fsync("db")];
    for page in [3, 0] {
        steps.extend([
            create("db-journal"),
            write("db-journal", 0, 512),
            append("db-journal", 4104),
            fsync("db-journal"),
            write("db-journal", 0, 28),
            fsync("db-journal"),
            write("db", page * 4096, 4096),
            write("db", 0, 4096),
            fsync("db"),
            remove("db-journal"),
            Step::FsyncDir(text("")),
        ]);
    }
    judge("database", &Setup::safe(), &steps);
}

/// An editor's save, and a file that is emptied and written again.
#[test]
fn faults_of_saves() {
    let mut steps = vec![mkdir("d"), create("d/text"), write("d/text", 0, 6000), fsync("d/text")];
    for _ in 0..2 {
        steps.extend([
            create("d/new"),
            write("d/new", 0, 7000),
            fsync("d/new"),
            close("d/new"),
            rename("d/new", "d/text"),
            Step::FsyncDir(text("d")),
        ]);
    }
    for len in [100, 130_000] {
        steps.extend([
            set_len("d/text", 0),
            write("d/text", 0, len),
            fsync("d/text"),
            write("d/text", 50, len / 2),
            set_len("d/text", 0),
            write("d/text", 0, len + 1),
        ]);
    }
    judge("saves", &Setup::encrypted_names(), &steps);
}

/// Random operations on files and names, and a random fault.
fn random_trial(seed: u64) {
    let mut random = Random(seed);
    let mut steps = vec![create("f"), write("f", 0, 1 + random.below(200_000) as usize), mkdir("d")];
    let long = "-long".repeat(40);
    let paths = [text("f"), text("d/g"), format!("d/{long}")];
    for _ in 0..10 + random.below(25) {
        let path = &paths[random.below(4).min(2) as usize][..];
        let off = match random.below(3) {
            0 => random.below(20_000),
            1 => random.below(60) * 4096,
            _ => random.below(600_000),
        } as usize;
        let len = [1, 100, 4096, 8192, 1 + random.below(10_000) as usize, 70_000][random.below(6) as usize];
        steps.push(match random.below(24) {
            0..6 => write(path, off, len),
            6..8 => append(path, len),
            8..12 => fsync(path),
            12..14 => set_len(path, if random.below(4) == 0 { 0 } else { off }),
            14 => punch(path, off / 4096 * 4096, 4096 * (1 + random.below(20)) as usize),
            15..17 => Step::EndRounds,
            17 => Step::Rotate,
            18 => close(path),
            19 => create(path),
            20 => rename(path, &paths[random.below(3) as usize]),
            21 => Step::FsyncDir(text("d")),
            22 => remove(path),
            _ => Step::Remount,
        });
    }
    let (lasting, reads, how, _) = PLANS[random.below(PLANS.len() as u64) as usize];
    let how = if let Fault::Torn(..) = how { Fault::Torn(4096 * random.below(20) as usize, Errno::IO) } else { how };
    let plan = Plan { first: random.below(100) as usize, lasting, reads, how };
    let setup = if random.below(2) == 0 { Setup::safe() } else { Setup::encrypted_names() };
    let mut trial = Trial::new(&format!("seed {seed}"), &setup, plan);
    trial.run(&steps);
    trial.end(CUTS);
}

#[test]
fn random_operations_and_faults() {
    // KMSFS_FAULTS=n makes n times as many, KMSFS_FAULT_SEED begins elsewhere.
    let first = std::env::var("KMSFS_FAULT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + 150 * runs().max(1) {
        random_trial(seed);
    }
}

/// What a crash has left: a file with overwritten blocks in the redo file and an end that is not durable; what is promised
/// of it.
fn crashed(setup: &Setup) -> (Disk, Promise) {
    let mut world = World::new(setup);
    world.create("f");
    world.write("f", 0, 60_000);
    world.fsync("f");
    world.write("f", 4096, 20_000);
    world.end_rounds();
    world.write("f", 12_288, 9000);
    world.append("f", 70_000);
    world.fsync("f");
    world.write("f", 8192, 30_000);
    world.append("f", 9000);
    let promise = world.files[world.file("f")].clone();
    let story = world.end();
    let mut disk = Disk::new(story.root);
    story.before.iter().chain(&story.log).for_each(|change| disk.apply(change));
    (disk, promise)
}

/// The calls that read or change something fail while the file is opened, read and overwritten for the first time: what was
/// fsynced is there once they work.
#[test]
fn faults_of_what_a_crash_has_left() {
    let setup = Setup::safe();
    let (disk, promise) = crashed(&setup);
    let mut trials = 0;
    for seed in 0..6 + runs() {
        for (lasting, reads) in [(false, true), (true, true), (false, false), (true, false)] {
            // The redo file's places are read one by one.
            for first in (0..60).chain((60..).step_by(37)) {
                let dir = rig::fresh_dir();
                disk.cut(&Cut::Any(Random(seed), [5, 50, 95][seed as usize % 3]), dir.path());
                let mut rig = rig::Rig::over(dir, &setup);
                let plan = Plan { first, lasting, reads, how: Fault::Error(Errno::IO) };
                let course = Course::begin(plan);
                drop(rig::look_at(rig.fs()));
                let mut promise = promise.clone();
                promise.write(16_384, 5000, 200);
                drop(rig.write("f", 16_384, &[200; 5000]));
                drop(rig.fsync("f"));
                drop(rig.close("f"));
                tap::fail(None);
                for when in ["once they work", "after a remount"] {
                    let found = rig::look_at(rig.fs()).expect("all can be looked at");
                    let FoundObject::File { seen, .. } = &found.names[&b"f"[..]] else { panic!("no file") };
                    promise
                        .check(seen.as_deref())
                        .unwrap_or_else(|e| panic!("seed {seed}, {plan:?}, {:?}, {when}: {e}", course.borrow().failed));
                    rig.end_and_mount().expect("mounts");
                }
                trials += 1;
                if course.borrow().failed.is_empty() {
                    break;
                }
            }
        }
    }
    println!("what a crash has left: {trials} faults");
}

/// The same of a repair: it says that it did not go through all, and nothing is lost. Another one mends it.
#[test]
fn faults_of_repairs() {
    for (name, setup) in [("plain names", Setup::safe()), ("encrypted names", Setup::encrypted_names())] {
        let trials = faults_of_repairs_of(&setup);
        println!("repairs, {name}: {trials} faults");
    }
}

fn faults_of_repairs_of(setup: &Setup) -> usize {
    let (disk, promise) = crashed(setup);
    let mut trials = 0;
    for seed in 0..3 + runs() {
        for (lasting, reads) in [(false, true), (true, true), (false, false), (true, false)] {
            for first in (0..60).chain((60..).step_by(37)) {
                let dir = rig::fresh_dir();
                disk.cut(&Cut::Any(Random(seed), [5, 50, 95][seed as usize % 3]), dir.path());
                let plan = Plan { first, lasting, reads, how: Fault::Error(Errno::IO) };
                let course = Course::begin(plan);
                let said = rig::try_check(dir.path(), setup, true);
                tap::fail(None);
                let failed = course.borrow().failed.clone();
                let said = said.map(|report| report.text());
                let judge = |rig: &rig::Rig, when: &str| {
                    let found = rig::look_at(rig.fs()).expect("all can be looked at");
                    let FoundObject::File { seen, .. } = &found.names[&b"f"[..]] else { panic!("no file") };
                    promise
                        .check(seen.as_deref())
                        .unwrap_or_else(|e| panic!("seed {seed}, {plan:?}, {failed:?}, {when}: {e}\n{said:?}"));
                };
                if first % 2 == 0 {
                    rig::check(dir.path(), setup, true);
                }
                let mut rig = rig::Rig::over(dir, setup);
                judge(&rig, "mounted");
                rig.end();
                rig::check(rig.path(), setup, true);
                let (nothing, text) = rig::check_says(rig.path(), setup, false);
                assert!(nothing, "seed {seed}, {plan:?}, {failed:?}: {text}");
                rig.end_and_mount().expect("mounts");
                judge(&rig, "repaired");
                trials += 1;
                if failed.is_empty() {
                    break;
                }
            }
        }
    }
    trials
}

/// A re-wrap that fails at any call leaves a file that opens, and can be done again.
#[test]
fn faults_of_rewraps() {
    let rewrap = |path: &str| Step::Rewrap(text(path));
    let steps = [
        create("small"),
        write("small", 0, 100),
        create("large"),
        write("large", 0, 150_000),
        Step::Remount,
        rewrap("small"),
        rewrap("large"),
        rewrap("small"),
        Step::Remount,
        write("small", 50, 5000),
        fsync("small"),
        Step::Remount,
        rewrap("small"),
    ];
    judge("re-wraps", &Setup::safe(), &steps);
}
