//! Power cuts: workloads run on the file system without a kernel in front, every change of the backing directory is
//! recorded, and every state that a cut could leave is mounted and judged (`docs/CRASH.md`).

pub mod disk;
pub mod oracle;
pub mod rig;
mod workloads;

use std::collections::BTreeMap;

use crate::backing::tap::{self, Change};

use disk::{Cut, Disk};
use oracle::{Names, Object, Promise, Seen};
use rig::Rig;

/// A small generator of its own: a failure is told by its seed.
pub struct Random(pub u64);

impl Random {
    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What the file system had promised at some point of the log.
#[derive(Clone)]
struct Moment {
    /// Changes recorded until then.
    logged: usize,
    /// What the names may be: all states since they were durable, the newest last.
    names: Vec<Names>,
    files: Vec<Promise>,
    what: String,
}

/// A workload under way: what it does to the file system, and what may be found after a cut.
pub struct World {
    pub rig: Rig,
    pub names: Names,
    pub files: Vec<Promise>,
    moments: Vec<Moment>,
    value: u8,
}

impl World {
    pub fn new(setup: &rig::Setup) -> Self {
        Self::on(Rig::new(setup), Names::new(), Vec::new())
    }

    /// Goes on with a volume that holds this.
    fn on(rig: Rig, names: Names, files: Vec<Promise>) -> Self {
        tap::record();
        let begin =
            Moment { logged: 0, names: vec![names.clone()], files: files.clone(), what: "the beginning".into() };
        Self { rig, names, files, moments: vec![begin], value: 0 }
    }

    /// Notes that `what` was done, and what of it may be found from when it began.
    pub fn did(&mut self, what: String) {
        let mut names = self.moments.last().expect("never empty").names.clone();
        if names.last() != Some(&self.names) {
            names.push(self.names.clone());
        }
        self.moments.push(Moment { logged: tap::recorded(), names, files: self.files.clone(), what });
    }

    /// Notes that `what` made all names durable, and these files. What was promised before it counts until it is through.
    pub fn durable(&mut self, what: String, files: std::ops::Range<usize>) {
        self.did(what.clone());
        self.files[files].iter_mut().for_each(Promise::fsync);
        let (names, files) = (vec![self.names.clone()], self.files.clone());
        self.moments.push(Moment { logged: tap::recorded(), names, files, what: format!("{what}, done") });
    }

    pub fn file(&self, path: &str) -> usize {
        match self.names[path.as_bytes()] {
            Object::File(file) => file,
            _ => panic!("{path} is no file"),
        }
    }

    pub fn create(&mut self, path: &str) {
        self.rig.create(path).expect("creates");
        self.files.push(Promise::default());
        self.names.insert(path.into(), Object::File(self.files.len() - 1));
        self.did(format!("create {path}"));
    }

    /// Bytes of a value that no other write has.
    pub fn write(&mut self, path: &str, off: usize, len: usize) {
        let value = self.new_value();
        self.rig.write(path, off as u64, &vec![value; len]).expect("writes");
        let file = self.file(path);
        self.files[file].write(off, len, value);
        self.did(format!("write {path} {off}+{len} = {value}"));
    }

    /// As [`Self::write`], where damage of an earlier cut may forbid it: false then, and what is there is not known.
    fn may_write(&mut self, path: &str, off: usize, len: usize) -> bool {
        let value = self.new_value();
        let file = self.file(path);
        let written = self.rig.write(path, off as u64, &vec![value; len]).is_ok();
        self.files[file].write(off, len, value);
        self.did(format!("write {path} {off}+{len} = {value}: {written}"));
        written
    }

    pub fn new_value(&mut self) -> u8 {
        // 0 is a hole.
        self.value = self.value % 250 + 1;
        self.value
    }

    pub fn append(&mut self, path: &str, len: usize) {
        let off = self.files[self.file(path)].now.len();
        self.write(path, off, len);
    }

    pub fn set_len(&mut self, path: &str, len: usize) {
        self.rig.set_len(path, len as u64).expect("sets the length");
        let file = self.file(path);
        self.files[file].set_len(len);
        self.did(format!("truncate {path} {len}"));
    }

    pub fn punch(&mut self, path: &str, off: usize, len: usize) {
        let file = self.file(path);
        let end = (off + len).min(self.files[file].now.len());
        self.rig.punch(path, off as u64, len as u64).expect("punches");
        if off < end {
            self.files[file].write(off, end - off, 0);
        }
        self.did(format!("punch {path} {off}+{len}"));
    }

    pub fn fsync(&mut self, path: &str) {
        self.rig.fsync(path).expect("syncs");
        let file = self.file(path);
        self.durable(format!("fsync {path}"), file..file + 1);
    }

    pub fn close(&mut self, path: &str) {
        self.rig.close(path).expect("closes");
        self.did(format!("close {path}"));
    }

    pub fn mkdir(&mut self, path: &str) {
        self.rig.mkdir(path).expect("makes");
        self.names.insert(path.into(), Object::Dir);
        self.did(format!("mkdir {path}"));
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.rig.symlink(path, target).expect("links");
        self.names.insert(path.into(), Object::Link(target.into()));
        self.did(format!("symlink {path}"));
    }

    pub fn link(&mut self, path: &str, other: &str) {
        self.rig.link(path, other).expect("links");
        let object = self.names[path.as_bytes()].clone();
        self.names.insert(other.into(), object);
        self.did(format!("link {path} {other}"));
    }

    pub fn remove(&mut self, path: &str) {
        self.rig.remove(path).expect("removes");
        self.names.remove(path.as_bytes());
        self.did(format!("remove {path}"));
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        self.rig.rename(from, to).expect("renames");
        let moved: Vec<_> = self
            .names
            .iter()
            .filter(|(path, _)| path.as_slice() == from.as_bytes() || path.starts_with(format!("{from}/").as_bytes()))
            .map(|(path, object)| (path.clone(), object.clone()))
            .collect();
        for (path, object) in moved {
            self.names.remove(&path);
            self.names.insert([to.as_bytes(), &path[from.len()..]].concat(), object);
        }
        self.did(format!("rename {from} {to}"));
    }

    pub fn fsync_dir(&mut self, path: &str) {
        self.rig.fsync_dir(path).expect("syncs");
        self.durable(format!("fsync of directory {path}"), 0..0);
    }

    pub fn end_rounds(&mut self) {
        self.rig.fs().end_rounds(std::time::Duration::ZERO).expect("ends");
        self.did("rounds end".into());
    }

    pub fn rotate(&mut self) {
        let before = tap::recorded();
        self.rig.fs().rotate_session().expect("rotates");
        if tap::recorded() == before {
            // No file was written since the last one.
            return;
        }
        self.durable("rotation".into(), 0..self.files.len());
    }

    pub fn remount(&mut self) {
        self.rig.remount();
        self.durable("remount".into(), 0..self.files.len());
    }

    /// Ends the workload: its log, and what was promised when.
    pub fn end(self) -> Story {
        let root = self.rig.root_ino();
        let setup = self.rig.setup.clone();
        Story { log: tap::take(), moments: self.moments, before: self.rig.before.clone(), root, setup }
    }
}

/// A workload that is through.
pub struct Story {
    pub log: Vec<Change>,
    moments: Vec<Moment>,
    /// What made the volume before the log begins.
    pub before: Vec<Change>,
    pub root: u64,
    setup: rig::Setup,
}

/// What was found in a state that a cut has left.
pub struct Found {
    pub names: BTreeMap<Vec<u8>, FoundObject>,
}

pub enum FoundObject {
    Dir,
    Link(Vec<u8>),
    /// `None`: it cannot be opened.
    File(Option<Vec<Seen>>),
}

/// How many states were judged.
#[derive(Default, Debug)]
pub struct Count {
    states: usize,
    exhausted: usize,
    points: usize,
}

impl Story {
    /// Judges cuts at every prefix of the log: all states where they are at most `all`, else `random` of them.
    pub fn judge(&self, all: usize, random: usize, seed: u64) -> Count {
        let mut disk = Disk::new(self.root);
        self.before.iter().for_each(|change| disk.apply(change));
        let mut count = Count::default();
        let mut rng = Random(seed);
        for at in 0..=self.log.len() {
            if at > 0 {
                disk.apply(&self.log[at - 1]);
            }
            count.points += 1;
            let states = disk.states(all);
            if states <= all {
                count.exhausted += 1;
                for n in 0..states {
                    self.judge_one(&disk, &mut Cut::Number(n), at, || format!("state {n} of {states}"));
                }
                count.states += states;
                continue;
            }
            self.judge_one(&disk, &mut Cut::Last, at, || "everything kept".into());
            self.judge_one(&disk, &mut Cut::First, at, || "nothing kept".into());
            for _ in 0..random {
                let (seed, last) = (rng.next(), [5, 50, 95][rng.below(3) as usize]);
                self.judge_one(&disk, &mut Cut::Any(&mut Random(seed), last), at, || format!("seed {seed}, {last} %"));
            }
            count.states += random + 2;
        }
        count
    }

    /// What holds for a cut after `at` changes: the last moment that had begun, and the one under way.
    fn moment(&self, at: usize) -> &Moment {
        // While a call is under way all that it does may be found, and what was promised before it holds.
        let next = self.moments.partition_point(|moment| moment.logged < at);
        let through = self.moments.partition_point(|moment| moment.logged <= at);
        &self.moments[if next == through { next.min(self.moments.len() - 1) } else { through - 1 }]
    }

    pub fn judge_one(&self, disk: &Disk, cut: &mut Cut, at: usize, which: impl Fn() -> String) {
        let dir = rig::fresh_dir();
        disk.cut(cut, dir.path());
        let moment = self.moment(at);
        let judged = rig::look(dir.path(), &self.setup).and_then(|found| judge(&found, moment)).and_then(|()| {
            // Nothing is stuck.
            rig::remove_all(dir.path(), &self.setup)
        });
        if let Err(e) = judged {
            let trace: Vec<_> = self.moments.iter().map(|m| format!("{:>5} {}", m.logged, m.what)).collect();
            let next = self.log.get(at).map(short);
            panic!(
                "a cut after change {at} of {} ({}; during or after \"{}\"; the next change is {next:?}): {e}\n{}",
                self.log.len(),
                which(),
                moment.what,
                trace.join("\n")
            );
        }
    }
}

fn short(change: &Change) -> String {
    match change {
        Change::Write { ino, off, data } => format!("Write {ino} {off}+{}", data.len()),
        other => format!("{other:?}"),
    }
}

fn judge(found: &Found, moment: &Moment) -> Result<(), String> {
    let same = |names: &&Names| {
        names.len() == found.names.len()
            && names.iter().zip(&found.names).all(|((a, object), (b, seen))| {
                a == b
                    && match (object, seen) {
                        (Object::Dir, FoundObject::Dir) | (Object::File(_), FoundObject::File(..)) => true,
                        (Object::Link(a), FoundObject::Link(b)) => a == b,
                        _ => false,
                    }
            })
    };
    let candidates: Vec<&Names> = moment.names.iter().filter(same).collect();
    if candidates.is_empty() {
        let text = |names: Vec<&Vec<u8>>| {
            names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>().join(", ")
        };
        return Err(format!(
            "the names are [{}], promised was one of {:?}",
            text(found.names.keys().collect()),
            moment.names.iter().map(|names| text(names.keys().collect())).collect::<Vec<_>>()
        ));
    }
    // Of several states with the same paths, one has to fit the files' contents.
    let mut last = Err("no state".into());
    for names in candidates {
        last = names.iter().try_for_each(|(path, object)| match (object, &found.names[path]) {
            (Object::File(file), FoundObject::File(seen)) => moment.files[*file]
                .check(seen.as_deref())
                .map_err(|e| format!("{}: {e}", String::from_utf8_lossy(path))),
            _ => Ok(()),
        });
        if last.is_ok() {
            return last;
        }
    }
    last
}

/// Random operations on one file, cuts, and going on with what the cut has left: the executable model's run, on the
/// real code.
fn random_run(seed: u64, setup: &rig::Setup) {
    let mut rng = Random(seed);
    let mut world = World::new(setup);
    world.create("f");
    for depth in 0..3u64 {
        for _ in 0..2 + rng.below(12) {
            if !random_step(&mut world, &mut rng) {
                break;
            }
        }
        let story = world.end();
        let mut disk = Disk::new(story.root);
        story.before.iter().chain(&story.log).for_each(|change| disk.apply(change));
        // Every prefix, thinly; then one state to go on with.
        story.judge(1, 1, seed);
        let dir = rig::fresh_dir();
        disk.cut(&mut Cut::Any(&mut Random(rng.next()), [5, 50, 95][rng.below(3) as usize]), dir.path());
        let found = rig::look(dir.path(), setup).expect("was judged");
        let Some(FoundObject::File(Some(seen))) = found.names.get(&b"f"[..]) else { return };
        let mut promise = Promise::default();
        promise.restart(seen);
        let names = Names::from([(b"f".to_vec(), Object::File(0))]);
        world = World::on(Rig::over(dir, setup), names, vec![promise]);
        // Values that the first part did not write.
        world.value = 80 * (depth as u8 + 1);
    }
}

/// False where the file cannot be worked on any more.
fn random_step(world: &mut World, rng: &mut Random) -> bool {
    const FAR: u64 = 600_000;
    let off = match rng.below(4) {
        0 => rng.below(20_000),
        1 => 115_000 + rng.below(15_000),
        2 => rng.below(150) * 4096,
        _ => rng.below(FAR),
    } as usize;
    match rng.below(20) {
        0..10 => {
            let len = [1, 100, 4096, 8192, 1 + rng.below(10_000), 70_000][rng.below(6) as usize];
            let now = world.files[0].now.len();
            let off = if rng.below(3) == 0 { now.min(FAR as usize) } else { off };
            return world.may_write("f", off, len as usize);
        }
        10..13 => world.fsync("f"),
        13..15 => {
            let len = if rng.below(5) == 0 { 0 } else { off };
            if world.rig.set_len("f", len as u64).is_err() {
                return false;
            }
            world.files[0].set_len(len);
            world.did(format!("truncate {len}"));
        }
        15 => {
            let (from, len) = (off / 4096 * 4096, 4096 * (1 + rng.below(4)) as usize);
            world.punch("f", from, len);
        }
        16..18 => world.end_rounds(),
        18 => world.rotate(),
        _ => world.close("f"),
    }
    true
}

fn runs() -> u64 {
    std::env::var("KMSFS_POWER_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// After a power cut, bytes that were fsynced read as fsynced or as written later.
#[test]
fn random_operations_and_cuts() {
    // KMSFS_POWER_CUTS=n makes n times as many runs.
    let first = std::env::var("KMSFS_POWER_CUT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + 60 * runs() {
        random_run(seed, &rig::Setup::safe());
    }
}
