//! Power cuts: workloads run on the file system without a kernel in front, every change of the backing directory is
//! recorded, and every state that a cut could leave is mounted and judged (`docs/CRASH.md`).

pub mod disk;
mod in_place;
pub mod oracle;
mod random;
pub mod rig;
pub mod workloads;

use std::collections::{BTreeMap, BTreeSet};

use crate::backing::tap::{self, Change};

use disk::{Cut, Disk, NameOrder};
use oracle::{Names, Object, Promise, Seen, Settled, Settles};
use rig::Rig;

/// A small generator of its own: a failure is told by its seed.
#[derive(Clone, Debug)]
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
    /// As [`World::settled`], and how much of the history had been.
    settled: Settled,
    steps: usize,
    what: String,
}

/// A workload under way: what it does to the file system, and what may be found after a cut.
pub struct World<V = Rig> {
    pub rig: V,
    pub names: Names,
    pub files: Vec<Promise>,
    moments: Vec<Moment>,
    /// All that the names ever were.
    history: Vec<Names>,
    /// Since when they are durable, each for itself.
    settled: Settled,
    value: u8,
}

/// What most workloads need of a file system.
pub trait Volume {
    fn create(&mut self, path: &str) -> super::Result<()>;
    fn write(&mut self, path: &str, off: u64, data: &[u8]) -> super::Result<()>;
    fn fsync(&mut self, path: &str) -> super::Result<()>;
    fn remove(&mut self, path: &str) -> super::Result<()>;
    fn fsync_dir(&mut self, path: &str) -> super::Result<()>;
    fn root_ino(&self) -> u64;
    /// The changes that made the volume.
    fn before(&self) -> Vec<Change>;
    fn setup(&self) -> rig::Setup;
}

impl World {
    pub fn new(setup: &rig::Setup) -> Self {
        Self::over(Rig::new(setup), Names::new(), Vec::new())
    }
}

impl<V: Volume> World<V> {
    /// Goes on with a volume that holds this.
    pub fn over(rig: V, names: Names, files: Vec<Promise>) -> Self {
        tap::record();
        let mut world = Self {
            rig,
            history: vec![names.clone()],
            names,
            files,
            moments: Vec::new(),
            settled: Settled::default(),
            value: 0,
        };
        let names = vec![world.names.clone()];
        world.moment(names, "the beginning".into());
        world
    }

    /// Notes that `what` was done, and what of it may be found from when it began.
    pub fn did(&mut self, what: String) {
        let mut names = self.moments.last().expect("never empty").names.clone();
        if names.last() != Some(&self.names) {
            names.push(self.names.clone());
            self.history.push(self.names.clone());
        }
        self.moment(names, what);
    }

    fn moment(&mut self, names: Vec<Names>, what: String) {
        let (logged, steps) = (tap::recorded(), self.history.len());
        let (files, settled) = (self.files.clone(), self.settled.clone());
        self.moments.push(Moment { logged, names, files, settled, steps, what });
    }

    /// Notes that `what` made these names durable, and these files. What was promised before it counts until it is
    /// through.
    pub fn durable(&mut self, what: String, names: Settles<'_>, files: std::ops::Range<usize>) {
        self.did(what.clone());
        self.files[files].iter_mut().for_each(Promise::fsync);
        self.settled.note(names, &self.names, self.history.len() - 1);
        let names = vec![self.names.clone()];
        self.moment(names, format!("{what}, done"));
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

    pub fn new_value(&mut self) -> u8 {
        // 0 is a hole.
        self.value = self.value % 250 + 1;
        self.value
    }

    pub fn append(&mut self, path: &str, len: usize) {
        let off = self.files[self.file(path)].now.len();
        self.write(path, off, len);
    }

    pub fn fsync(&mut self, path: &str) {
        self.rig.fsync(path).expect("syncs");
        let file = self.file(path);
        self.durable(format!("fsync {path}"), Settles::Entry(path.as_bytes()), file..file + 1);
    }

    pub fn remove(&mut self, path: &str) {
        self.rig.remove(path).expect("removes");
        self.names.remove(path.as_bytes());
        self.did(format!("remove {path}"));
    }

    pub fn fsync_dir(&mut self, path: &str) {
        self.rig.fsync_dir(path).expect("syncs");
        self.durable(format!("fsync of directory {path}"), Settles::Dir(path.as_bytes()), 0..0);
    }

    /// Ends the workload: its log, and what was promised when.
    pub fn end(self) -> Story {
        let root = self.rig.root_ino();
        let setup = self.rig.setup();
        let (moments, history, before) = (self.moments, self.history, self.rig.before());
        Story { log: tap::take(), moments, history, before, root, setup, order: NameOrder::Journal }
    }
}

impl World {
    /// As [`Self::write`], where damage of an earlier cut may forbid it: false then, and what is there is not known.
    fn may_write(&mut self, path: &str, off: usize, len: usize) -> bool {
        let value = self.new_value();
        let file = self.file(path);
        let written = self.rig.write(path, off as u64, &vec![value; len]).is_ok();
        self.files[file].write(off, len, value);
        self.did(format!("write {path} {off}+{len} = {value}: {written}"));
        written
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

    pub fn end_rounds(&mut self) {
        self.rig.fs().end_rounds(std::time::Duration::ZERO).expect("ends");
        self.did("rounds end".into());
    }

    /// A second passes: what was written before is no longer fresh.
    pub fn tend(&mut self) {
        self.rig.fs().tend();
        self.did("a second passes".into());
    }

    pub fn rotate(&mut self) {
        let before = tap::recorded();
        self.rig.fs().rotate_session().expect("rotates");
        if tap::recorded() == before {
            // No file was written since the last one.
            return;
        }
        self.durable("rotation".into(), Settles::All, 0..self.files.len());
    }

    /// A file that is closed gets its key wrapped anew.
    pub fn rewrap(&mut self, path: &str) {
        self.rig.rewrap(path).expect("re-wraps");
        self.did(format!("re-wrap {path}"));
    }

    pub fn kill(&mut self) {
        self.rig.kill();
        self.did("kill".into());
    }

    pub fn remount(&mut self) {
        self.rig.remount();
        self.durable("remount".into(), Settles::All, 0..self.files.len());
    }
}

/// A workload that is through.
pub struct Story {
    pub log: Vec<Change>,
    moments: Vec<Moment>,
    history: Vec<Names>,
    /// What made the volume before the log begins.
    pub before: Vec<Change>,
    pub root: u64,
    pub setup: rig::Setup,
    /// How the backing keeps names.
    pub order: NameOrder,
}

/// What was found in a state that a cut has left.
pub struct Found {
    pub names: BTreeMap<Vec<u8>, FoundObject>,
}

pub enum FoundObject {
    Dir,
    Link(Vec<u8>),
    File {
        /// Links of one file have the same.
        id: u64,
        /// `None`: it cannot be opened.
        seen: Option<Vec<Seen>>,
    },
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
        self.each_state(all, random, seed, &mut |state| state.judge()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Judges one state, that of `disk` after `at` changes.
    pub fn judge_one(&self, disk: &Disk, cut: Cut, at: usize) {
        let state = State { story: self, disk, cut, at };
        if let Err(e) = state.judge() {
            panic!("{}", state.describe(&e));
        }
    }

    /// Gives `judge` the states that cuts at every prefix of the log leave: all where they are at most `all`, else
    /// `random` of them and the two extremes. Ends at the first error, and says where it was.
    pub fn each_state(
        &self,
        all: usize,
        random: usize,
        seed: u64,
        judge: &mut dyn FnMut(&State<'_>) -> Result<(), String>,
    ) -> Result<Count, String> {
        let mut disk = Disk::new(self.root).with_order(self.order);
        self.before.iter().for_each(|change| disk.apply(change));
        let mut count = Count::default();
        let mut rng = Random(seed);
        for at in 0..=self.log.len() {
            if at > 0 {
                disk.apply(&self.log[at - 1]);
            }
            count.points += 1;
            let states = disk.states(all);
            let cuts: Vec<Cut> = if states <= all {
                count.exhausted += 1;
                (0..states).map(Cut::Number).collect()
            } else {
                let any = |rng: &mut Random| Cut::Any(Random(rng.next()), [5, 50, 95][rng.below(3) as usize]);
                [Cut::Last, Cut::First].into_iter().chain((0..random).map(|_| any(&mut rng))).collect()
            };
            count.states += cuts.len();
            for cut in cuts {
                let state = State { story: self, disk: &disk, cut, at };
                judge(&state).map_err(|e| state.describe(&e))?;
            }
        }
        Ok(count)
    }

    /// What holds for a cut after `at` changes: the last moment that had begun, and the one under way.
    fn moment(&self, at: usize) -> &Moment {
        // While a call is under way all that it does may be found, and what was promised before it holds.
        let next = self.moments.partition_point(|moment| moment.logged < at);
        let through = self.moments.partition_point(|moment| moment.logged <= at);
        &self.moments[if next == through { next.min(self.moments.len() - 1) } else { through - 1 }]
    }
}

/// One state that a cut leaves.
pub struct State<'a> {
    pub story: &'a Story,
    disk: &'a Disk,
    cut: Cut,
    at: usize,
}

impl State<'_> {
    /// A new directory with it.
    pub fn put(&self) -> tempfile::TempDir {
        let dir = rig::fresh_dir();
        self.disk.cut(&self.cut, dir.path());
        dir
    }

    /// Everything that was written is there: the daemon was killed, the machine was not.
    fn is_kill(&self) -> bool {
        matches!(self.cut, Cut::Last)
    }

    /// Mounts it, reads all of it, and removes all of it.
    fn judge(&self) -> Result<(), String> {
        let dir = self.put();
        self.judge_found(&rig::look(dir.path(), &self.story.setup)?)?;
        // Nothing is stuck.
        rig::remove_all(dir.path(), &self.story.setup)
    }

    /// Whether what was promised until this cut is there.
    pub fn judge_found(&self, found: &Found) -> Result<(), String> {
        let moment = self.story.moment(self.at);
        match self.story.order {
            NameOrder::Journal => judge(found, moment),
            NameOrder::Log => judge_each(found, moment, &self.story.history),
        }
    }

    fn describe(&self, error: &str) -> String {
        let story = self.story;
        let trace: Vec<_> = story.moments.iter().map(|m| format!("{:>5} {}", m.logged, m.what)).collect();
        format!(
            "a cut after change {} of {} ({:?}; during or after \"{}\"; the next change is {:?}): {error}\n{}",
            self.at,
            story.log.len(),
            self.cut,
            story.moment(self.at).what,
            story.log.get(self.at).map(short),
            trace.join("\n")
        )
    }
}

fn short(change: &Change) -> String {
    match change {
        Change::Write { ino, off, data } => format!("Write {ino} {off}+{}", data.len()),
        other => format!("{other:?}"),
    }
}

fn is_same(object: &Object, found: &FoundObject) -> bool {
    match (object, found) {
        (Object::Dir, FoundObject::Dir) | (Object::File(_), FoundObject::File { .. }) => true,
        (Object::Link(a), FoundObject::Link(b)) => a == b,
        _ => false,
    }
}

/// Each name for itself is what it was at some moment since it was durable, and the file that it names was then.
fn judge_each(found: &Found, moment: &Moment, history: &[Names]) -> Result<(), String> {
    let history = &history[..moment.steps];
    let paths: BTreeSet<&Vec<u8>> = history.iter().flat_map(BTreeMap::keys).chain(found.names.keys()).collect();
    for path in paths {
        let mut last = Err("is there, and never was".to_owned());
        for names in &history[moment.settled.since(path)..] {
            last = match (names.get(path), found.names.get(path)) {
                (None, None) => Ok(()),
                (Some(Object::File(file)), Some(FoundObject::File { seen, .. })) => {
                    moment.files[*file].check(seen.as_deref())
                }
                (Some(object), Some(found)) if is_same(object, found) => Ok(()),
                (Some(_), None) => Err("is durable, and is not there".into()),
                _ => continue,
            };
            if last.is_ok() {
                break;
            }
        }
        last.map_err(|e| format!("{}: {e}", String::from_utf8_lossy(path)))?;
    }
    Ok(())
}

fn judge(found: &Found, moment: &Moment) -> Result<(), String> {
    let same = |names: &&Names| {
        names.len() == found.names.len()
            && names.iter().zip(&found.names).all(|((a, object), (b, seen))| a == b && is_same(object, seen))
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
            (Object::File(file), FoundObject::File { seen, .. }) => moment.files[*file]
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

pub fn runs() -> u64 {
    std::env::var("KMSFS_POWER_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}
