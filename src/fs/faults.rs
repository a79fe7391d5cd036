//! Faults of the backing: workloads run on the file system without a kernel in front, one call to the backing after the
//! other is made to fail, and what is promised after an error is judged (`docs/CRASH.md`).
//!
//! An operation that fails leaves old or new in each block, and each name as it was or as it was to be. What was synced
//! is there, after a power cut too. Once the fault is over the same mount goes on, and so does the next.

mod halves;
mod workloads;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use rustix::io::Errno;

use crate::backing::tap::{self, Call, Fault};

use super::Result;
use super::power_cut::disk::{Cut, Disk, NameOrder};
use super::power_cut::oracle::{Names, Object, Promise, Settles};
use super::power_cut::{FoundObject, Random, Volume as _, World, rig};

/// Which calls fail.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// The number of the first call that fails, of those that count.
    first: usize,
    /// All from then on, or this one.
    lasting: bool,
    /// Calls that read count, or those that change something.
    reads: bool,
    how: Fault,
}

/// The plan as it goes.
#[derive(Debug)]
struct Course {
    plan: Plan,
    asked: usize,
    failed: Vec<Call>,
    /// The fault is over, or set aside.
    off: bool,
}

impl Course {
    /// Calls of this thread fail from now on as planned.
    fn begin(plan: Plan) -> Rc<RefCell<Self>> {
        let course = Rc::new(RefCell::new(Self { plan, asked: 0, failed: Vec::new(), off: false }));
        let asked = course.clone();
        tap::fail(Some(Box::new(move |call| asked.borrow_mut().ask(call))));
        course
    }

    fn ask(&mut self, call: Call) -> Option<Fault> {
        if self.off || call.changes() == self.plan.reads {
            return None;
        }
        self.asked += 1;
        let fails = if self.plan.lasting { self.asked > self.plan.first } else { self.asked - 1 == self.plan.first };
        let torn = matches!(self.plan.how, Fault::Torn(..) | Fault::Short(_));
        if !fails || (torn && call != Call::Write) {
            return None;
        }
        if !matches!(self.plan.how, Fault::Short(_)) {
            self.failed.push(call);
        }
        Some(self.plan.how)
    }
}

/// What a workload does.
#[derive(Clone, Debug)]
enum Step {
    Create(String),
    /// Offset, length.
    Write(String, usize, usize),
    Append(String, usize),
    SetLen(String, usize),
    Punch(String, usize, usize),
    Fsync(String),
    Close(String),
    Mkdir(String),
    Symlink(String, String),
    Link(String, String),
    Remove(String),
    Rename(String, String),
    FsyncDir(String),
    SetXattr(String, &'static str, usize),
    RemoveXattr(String, &'static str),
    EndRounds,
    Rotate,
    Remount,
    /// Of a file that nobody has open.
    Rewrap(String),
}

impl Step {
    /// The names after it.
    fn named(&self, names: &Names) -> Names {
        let mut out = names.clone();
        match self {
            Self::Mkdir(path) => drop(out.insert(path.clone().into(), Object::Dir)),
            Self::Symlink(path, target) => drop(out.insert(path.clone().into(), Object::Link(target.clone().into()))),
            Self::Link(path, other) => {
                let object = names[path.as_bytes()].clone();
                out.insert(other.clone().into(), object);
            }
            Self::Remove(path) => drop(out.remove(path.as_bytes())),
            Self::Rename(from, to) => {
                let below = format!("{from}/");
                for (path, object) in names {
                    if path == from.as_bytes() || path.starts_with(below.as_bytes()) {
                        out.remove(path);
                        out.insert([to.as_bytes(), &path[from.len()..]].concat(), object.clone());
                    }
                }
            }
            _ => {}
        }
        out
    }

    /// Not if something is missing, or in the way, because an earlier step failed.
    fn can_be_done(&self, names: &Names) -> bool {
        let there = |path: &str| path.is_empty() || names.contains_key(path.as_bytes());
        let full = |path: &str| names.keys().any(|other| other.starts_with(format!("{path}/").as_bytes()));
        self.needs().is_none_or(there)
            && match self {
                Self::Create(path) | Self::Mkdir(path) | Self::Symlink(path, _) => !there(path),
                Self::Link(_, to) => !there(to) && to.rsplit_once('/').is_none_or(|(dir, _)| there(dir)),
                Self::Remove(path) => !full(path),
                Self::Rename(_, to) => !full(to) && to.rsplit_once('/').is_none_or(|(dir, _)| there(dir)),
                _ => true,
            }
    }

    /// What has to be there for it.
    fn needs(&self) -> Option<&str> {
        match self {
            Self::Write(path, ..)
            | Self::Append(path, _)
            | Self::SetLen(path, _)
            | Self::Punch(path, ..)
            | Self::Fsync(path)
            | Self::Close(path)
            | Self::Link(path, _)
            | Self::Remove(path)
            | Self::Rename(path, _)
            | Self::FsyncDir(path)
            | Self::SetXattr(path, ..)
            | Self::RemoveXattr(path, _)
            | Self::Rewrap(path) => Some(path),
            Self::Create(path) | Self::Mkdir(path) | Self::Symlink(path, _) => {
                path.rsplit_once('/').map(|(dir, _)| dir)
            }
            Self::EndRounds | Self::Rotate | Self::Remount => None,
        }
    }
}

/// Values of xattrs by path and name: what they may be.
type Xattrs = BTreeMap<(String, &'static str), Vec<Option<Vec<u8>>>>;

/// A workload under a fault.
struct Trial {
    world: World,
    course: Rc<RefCell<Course>>,
    xattrs: Xattrs,
    /// Changes that were recorded when the first call failed.
    struck: Option<usize>,
    /// Changes that were recorded when a mount ended.
    remounts: Vec<usize>,
    trace: Trace,
}

/// What was done, for the message of a failure.
struct Trace {
    name: String,
    course: Rc<RefCell<Course>>,
    lines: Vec<String>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        tap::fail(None);
        if std::thread::panicking() {
            eprintln!("{} with {:?}\n{}", self.name, self.course, self.lines.join("\n"));
        }
    }
}

impl Trial {
    fn new(name: &str, setup: &rig::Setup, plan: Plan) -> Self {
        let world = World::new(setup);
        let course = Course::begin(plan);
        let trace = Trace { name: name.into(), course: course.clone(), lines: Vec::new() };
        Self { world, course, xattrs: Xattrs::new(), struck: None, remounts: Vec::new(), trace }
    }

    fn failures(&self) -> usize {
        self.course.borrow().failed.len()
    }

    /// Without the fault for a while.
    fn set_aside<T>(&mut self, look: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.course.borrow_mut().off, true);
        let out = look(self);
        self.course.borrow_mut().off = before;
        out
    }

    /// Runs all steps. Where the fault is a single one, what failed is done once more.
    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            if !self.step(step) && !self.course.borrow().plan.lasting {
                assert!(self.step(step), "{step:?} fails again");
            }
        }
    }

    /// True if it is done, or there is nothing to do.
    fn step(&mut self, step: &Step) -> bool {
        if !step.can_be_done(&self.world.names) {
            return true;
        }
        let (before, logged) = (self.failures(), tap::recorded());
        let done = self.attempt(step);
        let failures = self.failures() - before;
        if failures > 0 {
            self.struck.get_or_insert(logged);
        }
        self.trace.lines.push(format!("{:>5} {step:?}: {done:?}, {failures} calls failed", tap::recorded()));
        match done {
            Ok(()) => true,
            Err(e) => {
                assert!(failures > 0, "{step:?} fails without a fault: {e}");
                self.set_aside(|trial| trial.after_failure(step))
            }
        }
    }

    fn attempt(&mut self, step: &Step) -> Result<()> {
        let world = &mut self.world;
        let rig = &mut world.rig;
        let done = match step {
            Step::Create(path) => rig.create(path),
            Step::Write(path, off, len) => {
                let value = world.new_value();
                let written = world.rig.write(path, *off as u64, &vec![value; *len]);
                let file = world.file(path);
                world.files[file].write(*off, *len, value);
                written
            }
            Step::Append(path, len) => {
                let off = world.files[world.file(path)].now.len();
                return self.attempt(&Step::Write(path.clone(), off, *len));
            }
            Step::SetLen(path, len) => {
                let set = rig.set_len(path, *len as u64);
                let file = world.file(path);
                world.files[file].set_len(*len);
                set
            }
            Step::Punch(path, off, len) => {
                let punched = rig.punch(path, *off as u64, *len as u64);
                let file = world.file(path);
                let end = (off + len).min(world.files[file].now.len());
                if *off < end {
                    world.files[file].write(*off, end - off, 0);
                }
                punched
            }
            Step::Fsync(path) => rig.fsync(path),
            Step::Close(path) => rig.close(path),
            Step::Mkdir(path) => rig.mkdir(path),
            Step::Symlink(path, target) => rig.symlink(path, target),
            Step::Link(path, other) => rig.link(path, other),
            Step::Remove(path) => rig.remove(path),
            Step::Rename(from, to) => rig.rename(from, to),
            Step::FsyncDir(path) => rig.fsync_dir(path),
            Step::SetXattr(path, name, len) => {
                let value = vec![world.new_value(); *len];
                let id = world.rig.find(path)?;
                let set = world.rig.fs().setxattr(id, name.as_bytes(), &value, 0);
                self.note_xattr(path, name, Some(value), set.is_ok());
                set
            }
            Step::RemoveXattr(path, name) => {
                let id = world.rig.find(path)?;
                let removed = world.rig.fs().removexattr(id, name.as_bytes());
                self.note_xattr(path, name, None, removed.is_ok());
                removed
            }
            Step::EndRounds => rig.fs().end_rounds(std::time::Duration::ZERO),
            Step::Rotate => rig.fs().rotate_session().map_err(|_| Errno::IO.into()),
            Step::Remount => {
                self.remount();
                return Ok(());
            }
            Step::Rewrap(path) => rig.rewrap(path),
        };
        if done.is_ok() {
            self.note(step);
        }
        done
    }

    /// The model after a step that worked.
    fn note(&mut self, step: &Step) {
        let world = &mut self.world;
        if let Step::Create(path) = step {
            world.files.push(Promise::default());
            world.names.insert(path.clone().into(), Object::File(world.files.len() - 1));
        } else {
            world.names = step.named(&world.names);
        }
        let what = format!("{step:?}");
        match step {
            Step::Fsync(path) => {
                let file = world.file(path);
                world.durable(what, Settles::Entry(path.as_bytes()), file..file + 1);
            }
            Step::FsyncDir(path) => world.durable(what, Settles::Dir(path.as_bytes()), 0..0),
            _ => world.did(what),
        }
    }

    fn note_xattr(&mut self, path: &str, name: &'static str, value: Option<Vec<u8>>, done: bool) {
        let may_be = self.xattrs.entry((path.into(), name)).or_insert_with(|| vec![None]);
        if done {
            may_be.clear();
        }
        may_be.push(value);
    }

    /// After a step that failed, with the fault set aside: what is there is old or new, and counts from now on. True if
    /// the step is done nonetheless.
    fn after_failure(&mut self, step: &Step) -> bool {
        let before = self.world.names.clone();
        let found = rig::look_at(self.world.rig.fs()).unwrap_or_else(|e| panic!("after {step:?}: {e}"));
        let there: Vec<&Vec<u8>> = found.names.keys().collect();
        let mut after = step.named(&before);
        if let Step::Create(path) = step {
            self.world.files.push(Promise::default());
            after.insert(path.clone().into(), Object::File(self.world.files.len() - 1));
        }
        let mut done = false;
        if after != before {
            // Either may be found after a cut.
            self.world.names = after.clone();
            self.world.did(format!("{step:?}, perhaps"));
            done = after.keys().collect::<Vec<_>>() == there;
            if !done {
                self.world.names = before;
            }
        }
        self.world.did(format!("{step:?}, failed"));
        self.adopt(&found, &format!("after {step:?}, which failed"));
        done
    }

    /// What is there has to be what the model says, in files old or new; then it is what the model says.
    fn adopt(&mut self, found: &super::power_cut::Found, when: &str) {
        let names: Vec<_> = self.world.names.iter().map(|(path, object)| (path.clone(), object.clone())).collect();
        let there: Vec<_> = found.names.keys().map(|path| String::from_utf8_lossy(path)).collect();
        let wanted: Vec<_> = names.iter().map(|(path, _)| String::from_utf8_lossy(path)).collect();
        assert_eq!(there, wanted, "{when}: other names are there");
        let mut never_begun = Vec::new();
        for (path, object) in &names {
            let shown = String::from_utf8_lossy(path);
            match (object, &found.names[path]) {
                (Object::Dir, FoundObject::Dir) => {}
                (Object::Link(wanted), FoundObject::Link(seen)) => assert_eq!(wanted, seen, "{when}: {shown}"),
                (Object::File(file), FoundObject::File { seen, .. }) => {
                    let file = &mut self.world.files[*file];
                    file.check(seen.as_deref()).unwrap_or_else(|e| panic!("{when}: {shown}: {e}"));
                    let Some(seen) = seen else {
                        // Its first write failed, and was not to be taken back either. Nothing of it was ever synced.
                        assert!(self.course.borrow().plan.lasting, "{when}: {shown} cannot be opened");
                        never_begun.push(path);
                        continue;
                    };
                    let bytes: Option<Vec<u8>> = seen.iter().copied().collect();
                    file.now = bytes.unwrap_or_else(|| {
                        let at = seen.iter().position(Option::is_none);
                        panic!("{when}: {shown} cannot be read at {at:?} of {}", seen.len())
                    });
                }
                _ => panic!("{when}: {shown} is of another kind"),
            }
        }
        for path in never_begun {
            let shown = String::from_utf8(path.clone()).expect("the test's names are text");
            self.world.rig.remove(&shown).expect("what cannot be opened can be removed");
            self.world.names.remove(path);
            self.world.did(format!("{shown} is removed"));
        }
        self.look_at_xattrs(when);
    }

    fn look_at_xattrs(&mut self, when: &str) {
        let fs = self.world.rig.fs().clone();
        for ((path, name), may_be) in &mut self.xattrs {
            if !self.world.names.contains_key(path.as_bytes()) {
                continue;
            }
            let id = self.world.rig.find(path).expect("it is there");
            let value = match fs.getxattr(id, name.as_bytes()) {
                Ok(value) => Some(value),
                Err(e) if e.errno() == libc::ENODATA => None,
                Err(e) => panic!("{when}: {name} of {path}: {e}"),
            };
            assert!(may_be.contains(&value), "{when}: {name} of {path} is {value:?}");
            *may_be = vec![value];
        }
    }

    /// Everything reads as the model says.
    fn look(&mut self, when: &str) {
        let before: Vec<Vec<u8>> = self.world.files.iter().map(|file| file.now.clone()).collect();
        let found = rig::look_at(self.world.rig.fs()).unwrap_or_else(|e| panic!("{when}: {e}"));
        self.adopt(&found, when);
        for (path, object) in &self.world.names {
            if let Object::File(file) = object {
                let (seen, wanted) = (&self.world.files[*file].now, &before[*file]);
                let differ = seen.iter().zip(wanted).position(|(a, b)| a != b);
                let shown = String::from_utf8_lossy(path);
                assert!(
                    seen == wanted,
                    "{when}: {shown} has {} bytes of {}, and differs at {differ:?}",
                    seen.len(),
                    wanted.len()
                );
            }
        }
    }

    /// A mount that ends under the fault, and the next.
    fn remount(&mut self) {
        let before = self.failures();
        self.world.rig.end();
        self.remounts.push(tap::recorded());
        let clean = self.failures() == before;
        if self.world.rig.end_and_mount().is_err() {
            assert!(self.failures() > before, "the mount fails without a fault");
            self.set_aside(|trial| trial.world.rig.end_and_mount()).expect("mounts once the fault is over");
        }
        self.set_aside(|trial| {
            if clean {
                trial.look("after a remount");
                let files = trial.world.files.len();
                trial.world.durable("remount".into(), Settles::All, 0..files);
            } else {
                trial.world.did("remount after an end that failed".into());
                let found = rig::look_at(trial.world.rig.fs()).unwrap_or_else(|e| panic!("after a remount: {e}"));
                trial.adopt(&found, "after a remount");
            }
        });
    }

    /// The fault is over: the same mount goes on, then the next, and nothing is left that cannot be mended.
    fn end(mut self, cuts: u64) {
        self.course.borrow_mut().off = true;
        self.look("once the fault is over");
        let files: Vec<String> = self
            .world
            .names
            .iter()
            .filter(|(_, object)| matches!(object, Object::File(_)))
            .map(|(path, _)| String::from_utf8(path.clone()).expect("the test's names are text"))
            .collect();
        for path in &files {
            let len = self.world.files[self.world.file(path)].now.len();
            for step in [
                Step::Fsync(path.clone()),
                Step::Write(path.clone(), len / 3, 5000),
                Step::Append(path.clone(), 3000),
                Step::Fsync(path.clone()),
            ] {
                assert!(self.step(&step), "{step:?} once the fault is over");
            }
        }
        self.look("after more was written");
        self.world.rig.fs().rotate_session().expect("rotates");
        self.step(&Step::Remount);
        let path = self.world.rig.path().to_owned();
        let setup = self.world.rig.setup.clone();
        self.world.rig.end();
        // The log does not have what a repair does.
        let logged = tap::recorded();
        let (nothing, text) = rig::check_says(&path, &setup, false);
        if !nothing {
            let (_, repaired) = rig::check_says(&path, &setup, true);
            let (nothing, text_after) = rig::check_says(&path, &setup, false);
            assert!(nothing, "check finds what it cannot mend:\n{text}\n{repaired}\n{text_after}");
        }
        self.world.rig.end_and_mount().expect("mounts");
        self.look("after a check");
        self.judge_cuts(cuts, logged);
    }

    /// Power cuts at some moments since the fault.
    fn judge_cuts(self, cuts: u64, logged: usize) {
        let Some(struck) = self.struck else { return };
        let mut story = self.world.end();
        story.log.truncate(logged);
        let mut random = Random(struck as u64);
        let mut moments: Vec<usize> =
            (0..cuts).map(|_| struck + random.below((story.log.len() - struck + 1) as u64) as usize).collect();
        moments.sort_unstable();
        let mut disk = Disk::new(story.root);
        story.before.iter().for_each(|change| disk.apply(change));
        let mut applied = 0;
        for at in moments {
            for (n, change) in story.log[applied..at].iter().enumerate() {
                if self.remounts.contains(&(applied + n)) {
                    // What an earlier mount did not get to the disk is not known to the next.
                    disk.keep_all();
                }
                disk.apply(change);
            }
            applied = at;
            let (seed, last) = (random.next(), [5, 50, 95][random.below(3) as usize]);
            story.judge_one(&disk, Cut::Any(Random(seed), last), at);
        }
    }
}
