//! Random operations through a real mount, against a model in memory, compared after each step.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use common::io::*;
use common::{ALL, Mounted, Setup, Suite};

const STEPS: usize = 1000;
const SEEDS: [u64; 3] = [1, 20_260_101, 0xfeed_beef];
/// Files stay below this, so that a step is quick and yet groups and head pages are crossed.
const SIZE_MAX: u64 = 900_000;
const NAMES: usize = 6;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

fn main() -> std::process::ExitCode {
    Suite::default().on(&ALL, bodies![random_operations]).run()
}

fn random_operations(setup: &Setup) {
    for seed in SEEDS {
        eprintln!("seed {seed}");
        let mut run = Run {
            mount: Mounted::new(setup),
            random: Random(seed),
            model: BTreeMap::new(),
            handles: Vec::new(),
            history: Vec::new(),
        };
        for step in 0..STEPS {
            run.step(seed, step);
        }
        run.reopen();
        run.compare_all(seed, STEPS);
    }
}

/// A file open through the mount, and the model's file that it is; `None` of a name that was removed or replaced.
struct Handle {
    file: File,
    data: std::rc::Rc<std::cell::RefCell<Vec<u8>>>,
}

struct Run {
    mount: Mounted,
    random: Random,
    model: BTreeMap<usize, std::rc::Rc<std::cell::RefCell<Vec<u8>>>>,
    handles: Vec<Handle>,
    history: Vec<String>,
}

impl Run {
    fn name(&self, i: usize) -> std::path::PathBuf {
        // One of them long.
        self.mount.path(if i == 0 { "long ".repeat(50) } else { format!("file {i}") })
    }

    fn step(&mut self, seed: u64, step: usize) {
        let which = self.random.below(NAMES as u64) as usize;
        let operation = self.random.below(100);
        let touched = match operation {
            0..=69 => self.change(which, operation),
            70..=77 => self.rename(which),
            78..=82 => self.remove(which),
            83..=90 => self.hold(which),
            91..=97 => {
                self.log("drop cache".into());
                for handle in &self.handles {
                    drop_cache(&handle.file);
                }
                return self.compare_all(seed, step);
            }
            _ => {
                self.reopen();
                return self.compare_all(seed, step);
            }
        };
        if let Some(which) = touched {
            self.compare(which, seed, step);
        }
        for at in 0..self.handles.len() {
            self.compare_handle(at, seed, step);
        }
    }

    fn log(&mut self, line: String) {
        self.history.push(line);
    }

    /// One change of a file's content, through a held handle of it if there is one.
    fn change(&mut self, which: usize, operation: u64) -> Option<usize> {
        let path = self.name(which);
        let data = self.model.entry(which).or_default().clone();
        let held = self.handles.iter().find(|handle| std::rc::Rc::ptr_eq(&handle.data, &data));
        let own;
        let file = match held {
            Some(handle) if operation.is_multiple_of(2) => &handle.file,
            _ => {
                own = open_rw(&path);
                &own
            }
        };
        let mut data = data.borrow_mut();
        let size = data.len() as u64;
        let r = &mut self.random;
        let at = match r.below(4) {
            0 => size,
            1 => r.below(SIZE_MAX / 4096) * 4096 % (size + 1).next_multiple_of(4096),
            2 => r.below(size + 1),
            _ => r.below(SIZE_MAX),
        };
        let len = match r.below(4) {
            0 => r.below(100),
            1 => 4096 * (1 + r.below(20)),
            _ => r.below(60_000),
        }
        .min(SIZE_MAX.saturating_sub(at));
        let line;
        match operation {
            0..=29 => {
                let bytes = pattern(r.next(), len as usize);
                line = format!("write {which} at {at} len {len}");
                file.write_all_at(&bytes, at).unwrap();
                put(&mut data, at, &bytes);
            }
            30..=37 => {
                let bytes = pattern(r.next(), (len as usize).min((SIZE_MAX - size.min(SIZE_MAX)) as usize));
                line = format!("append {which} len {}", bytes.len());
                let mut append = File::options().append(true).open(&path).unwrap();
                std::io::Write::write_all(&mut append, &bytes).unwrap();
                data.extend_from_slice(&bytes);
            }
            38..=47 => {
                line = format!("truncate {which} from {size} to {at}");
                file.set_len(at).unwrap();
                data.resize(at as usize, 0);
            }
            48..=55 => {
                line = format!("punch {which} at {at} len {len}");
                if len > 0 {
                    fallocate(file, PUNCH, at, len).unwrap();
                    let end = size.min(at + len);
                    if at < end {
                        data[at as usize..end as usize].fill(0);
                    }
                }
            }
            56..=58 => {
                line = format!("zero {which} at {at} len {len}");
                if len > 0 {
                    fallocate(file, libc::FALLOC_FL_ZERO_RANGE, at, len).unwrap();
                    put(&mut data, at, &vec![0; len as usize]);
                }
            }
            59..=64 if size > 0 => {
                let at = r.below(size);
                let bytes = pattern(r.next(), (len.min(size - at)) as usize);
                line = format!("mmap write {which} at {at} len {}", bytes.len());
                let mut map = Map::new(file, size as usize, true).unwrap();
                map.write(at as usize, &bytes);
                if r.below(2) == 0 {
                    map.sync();
                }
                put(&mut data, at, &bytes);
            }
            65..=66 if size > 0 => {
                let (from, n) = (r.below(size), len.min(size / 2));
                let n = n.min(size - from).min(at.abs_diff(from)).min(SIZE_MAX - at.min(SIZE_MAX));
                line = format!("copy in {which} from {from} to {at} len {n}");
                if n > 0 {
                    let done = copy_file_range(file, from, file, at, n as usize).unwrap();
                    let bytes = data[from as usize..from as usize + done].to_vec();
                    put(&mut data, at, &bytes);
                }
            }
            _ => {
                line = format!("fsync {which}");
                file.sync_all().unwrap();
            }
        }
        drop(data);
        self.log(line);
        Some(which)
    }

    fn rename(&mut self, from: usize) -> Option<usize> {
        let to = self.random.below(NAMES as u64) as usize;
        self.log(format!("rename {from} to {to}"));
        let done = fs::rename(self.name(from), self.name(to));
        match self.model.remove(&from) {
            Some(data) => {
                done.unwrap();
                self.model.insert(to, data);
                Some(to)
            }
            None => {
                assert_eq!(errno(done), libc::ENOENT);
                None
            }
        }
    }

    fn remove(&mut self, which: usize) -> Option<usize> {
        self.log(format!("remove {which}"));
        let done = errno(fs::remove_file(self.name(which)));
        assert_eq!(done, if self.model.remove(&which).is_some() { 0 } else { libc::ENOENT });
        None
    }

    /// Opens a further handle, or closes one.
    fn hold(&mut self, which: usize) -> Option<usize> {
        if self.handles.len() >= 4 {
            let at = self.random.below(self.handles.len() as u64) as usize;
            self.log(format!("close handle {at}"));
            self.handles.swap_remove(at);
            return None;
        }
        let data = self.model.get(&which)?.clone();
        self.log(format!("hold {which}"));
        self.handles.push(Handle { file: open_rw(&self.name(which)), data });
        Some(which)
    }

    fn reopen(&mut self) {
        self.log("remount".into());
        self.handles.clear();
        self.mount.remount();
    }

    fn compare_all(&mut self, seed: u64, step: usize) {
        for which in 0..NAMES {
            self.compare(which, seed, step);
        }
        let listed = fs::read_dir(self.mount.root()).unwrap().count();
        assert_eq!(listed, self.model.len(), "{}", self.story(seed, step));
    }

    fn compare(&self, which: usize, seed: u64, step: usize) {
        match self.model.get(&which) {
            Some(data) => {
                let seen = fs::read(self.name(which)).unwrap_or_else(|e| panic!("{e}: {}", self.story(seed, step)));
                self.assert_same(&seen, &data.borrow(), &format!("file {which}"), seed, step);
            }
            None => assert_eq!(errno(fs::metadata(self.name(which))), libc::ENOENT, "{}", self.story(seed, step)),
        }
    }

    fn compare_handle(&self, at: usize, seed: u64, step: usize) {
        let handle = &self.handles[at];
        self.assert_same(&read_all(&handle.file), &handle.data.borrow(), &format!("handle {at}"), seed, step);
    }

    fn assert_same(&self, seen: &[u8], wanted: &[u8], what: &str, seed: u64, step: usize) {
        if seen == wanted {
            return;
        }
        let first = seen.iter().zip(wanted).position(|(a, b)| a != b);
        let lens = (seen.len(), wanted.len());
        panic!("{what} differs first at {first:?}, lengths (seen, wanted) {lens:?}: {}", self.story(seed, step));
    }

    fn story(&self, seed: u64, step: usize) -> String {
        let from = self.history.len().saturating_sub(40);
        format!("seed {seed}, step {step}, after\n{}", self.history[from..].join("\n"))
    }
}

fn put(data: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let end = at as usize + bytes.len();
    if bytes.is_empty() {
        return;
    }
    if data.len() < end {
        data.resize(end, 0);
    }
    data[at as usize..end].copy_from_slice(bytes);
}
