//! Random operations on files of a mount in all the ways that a program can reach a file's bytes, as fsx does it: beside
//! calls, shared mappings that stay through truncation, O_DIRECT, holes, copies; by one process and by two.
//!
//! `FSX_OPS` is how many operations a test does, `FSX_SEED` the one seed to do them with, `FSX_TRACE=1` prints each
//! before it is done. `FSX_BEHIND=1` writes to mappings behind the end of the file too and fails: docs/SEMANTICS.md has
//! the limit that it shows. A hundred thousand take some minutes, by the binary itself, since nextest ends what takes long.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use common::io::*;
use common::{Mounted, SUITES, Setup, Suite, wait_until};

const OPS: u64 = 3000;
const SEED: u64 = 20_260_101;
/// Some groups of blocks.
const SIZE_MAX: u64 = 800_000;
const BLOCK: u64 = 4096;
/// Of direct reads and writes.
const SECTOR: u64 = 512;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
/// The argument with which this binary is one of the processes of a test.
const WORKER: &str = "--worker-of-mount-fsx";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|first| first == WORKER) {
        Worker::from_arguments(&arguments[2..]).run();
        return ExitCode::SUCCESS;
    }
    Suite::default().on(&SUITES, bodies![two_files_in_every_way, two_processes_on_one_file]).run()
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What was done. A failure, whatever it is, prints the last of it.
struct History {
    of: String,
    lines: Vec<String>,
    trace: bool,
}

impl History {
    fn new(of: String) -> Self {
        Self { of, lines: Vec::new(), trace: std::env::var_os("FSX_TRACE").is_some() }
    }

    fn add(&mut self, line: String) {
        if self.trace {
            eprintln!("{}: {}: {line}", self.of, self.lines.len());
        }
        self.lines.push(line);
    }
}

impl Drop for History {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.lines.len().saturating_sub(60);
            eprintln!(
                "{}, operation {}, after
{}",
                self.of,
                self.lines.len(),
                self.lines[from..].join(
                    "
"
                )
            );
        }
    }
}

/// A file, all the ways to it, and what it has to hold.
struct Tracked {
    path: PathBuf,
    open: Option<Open>,
    data: Vec<u8>,
}

struct Open {
    cached: File,
    direct: File,
    /// Of `SIZE_MAX` bytes, whatever the file's size: only what the file has is touched.
    map: Map,
}

impl Tracked {
    fn new(path: PathBuf, data: Vec<u8>) -> Self {
        Self { path, open: None, data }
    }

    /// Opens it where it is not open.
    fn open(&mut self) -> &mut Open {
        self.open.get_or_insert_with(|| {
            let cached = open_rw(&self.path);
            let direct = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(&self.path).unwrap();
            let map = Map::new(&cached, SIZE_MAX.next_multiple_of(BLOCK) as usize, true).unwrap();
            Open { cached, direct, map }
        })
    }

    fn size(&self) -> u64 {
        self.data.len() as u64
    }

    fn wanted(&self, at: u64, len: u64) -> &[u8] {
        &self.data[at as usize..(at + len) as usize]
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = at as usize + bytes.len();
        self.data.resize(self.data.len().max(end), 0);
        self.data[at as usize..end].copy_from_slice(bytes);
    }

    /// Zeros where the file has bytes.
    fn clear(&mut self, at: u64, len: u64) {
        let (from, to) = (self.size().min(at), self.size().min(at + len));
        self.data[from as usize..to as usize].fill(0);
    }

    /// Reads in one of the ways what the file has there.
    fn read(&mut self, way: Way, at: u64, len: u64) -> Vec<u8> {
        let open = self.open();
        match way {
            Way::Call => {
                let mut seen = vec![0; len as usize];
                open.cached.read_exact_at(&mut seen, at).unwrap();
                seen
            }
            Way::Map => open.map.read(at as usize, len as usize),
            Way::Direct => {
                let (from, to) = (at / SECTOR * SECTOR, (at + len).next_multiple_of(SECTOR));
                let mut buffer = Aligned::new((to - from) as usize);
                let n = open.direct.read_at(buffer.bytes(), from).unwrap() as u64;
                assert!(from + n >= at + len, "{n} bytes at {from}, and not {len} at {at}");
                buffer.bytes()[(at - from) as usize..(at + len - from) as usize].to_vec()
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Call,
    Map,
    Direct,
}

impl Way {
    fn random(random: &mut Random) -> Self {
        [Self::Call, Self::Map, Self::Direct][random.below(3) as usize]
    }
}

/// Memory that O_DIRECT takes.
struct Aligned {
    memory: Vec<u8>,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        Self { memory: vec![0; len + BLOCK as usize], len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let from = self.memory.as_ptr().align_offset(BLOCK as usize);
        &mut self.memory[from..][..self.len]
    }
}

fn write_direct(file: &File, bytes: &[u8], at: u64) {
    let mut buffer = Aligned::new(bytes.len());
    buffer.bytes().copy_from_slice(bytes);
    file.write_all_at(buffer.bytes(), at).unwrap();
}

/// What differs first between what was read at `at` and what it has to be.
fn difference(seen: &[u8], wanted: &[u8], at: u64) -> Option<String> {
    let first = seen.iter().zip(wanted).position(|(a, b)| a != b);
    if first.is_none() && seen.len() == wanted.len() {
        return None;
    }
    let many = seen.iter().zip(wanted).filter(|(a, b)| a != b).count();
    let place = at + first.unwrap_or(seen.len().min(wanted.len())) as u64;
    let zero = first.is_some_and(|first| seen[first] == 0);
    Some(format!(
        "differs first at {place} (block {}, {}), {many} bytes do; lengths (seen, wanted) {:?}",
        place / BLOCK,
        if zero { "zero" } else { "not zero" },
        (seen.len(), wanted.len())
    ))
}

// One process, two files.

fn two_files_in_every_way(setup: &Setup) {
    let (seed, ops) = (from_env("FSX_SEED", SEED), from_env("FSX_OPS", OPS));
    eprintln!("FSX_SEED={seed} FSX_OPS={ops}");
    let mount = Mounted::new(setup);
    let files = ["a", "b"].map(|name| Tracked::new(mount.path(name), Vec::new()));
    let history = History::new(format!("{}, FSX_SEED={seed}", setup.name));
    let behind = from_env("FSX_BEHIND", 0) != 0;
    let mut run = Run { random: Random(seed), files, history, behind, mount };
    for _ in 0..ops {
        run.step();
    }
    run.remount();
    run.files.iter_mut().for_each(|file| file.open = None);
}

struct Run {
    random: Random,
    files: [Tracked; 2],
    history: History,
    behind: bool,
    /// Dropped after the files, which keep it busy.
    mount: Mounted,
}

impl Run {
    fn step(&mut self) {
        let which = self.random.below(2) as usize;
        match self.random.below(1000) {
            0..5 => self.remount(),
            5..30 => self.reopen(which),
            30..50 => {
                self.history.add(format!("{which}: fsync, drop cache"));
                drop_cache(&self.files[which].open().cached);
                self.check_all(which);
            }
            50..300 => self.read(which),
            300..340 => self.seek(which),
            340.. => self.change(which),
        }
        let size = self.files[which].open().cached.metadata().unwrap().len();
        assert_eq!(size, self.files[which].size(), "size of {which}");
    }

    fn remount(&mut self) {
        self.history.add("remount".into());
        for file in &mut self.files {
            file.open = None;
        }
        self.mount.remount();
        for which in 0..self.files.len() {
            self.check_all(which);
        }
    }

    fn reopen(&mut self, which: usize) {
        let truncate = self.random.below(8) == 0;
        self.history.add(format!("{which}: close, open{}", if truncate { " with O_TRUNC" } else { "" }));
        let file = &mut self.files[which];
        file.open = None;
        if truncate {
            File::options().write(true).create(true).truncate(true).open(&file.path).unwrap();
            file.data.clear();
        }
        self.check_all(which);
    }

    fn read(&mut self, which: usize) {
        let Some((at, len)) = self.inside(which) else { return };
        self.check(which, at, len);
    }

    /// What is said to be a hole is zeros.
    fn seek(&mut self, which: usize) {
        let size = self.files[which].size();
        let at = self.random.below(size + 1);
        self.history.add(format!("{which}: seek from {at}"));
        let file = &mut self.files[which];
        let cached = &file.open().cached;
        let Ok(hole) = seek_hole(cached, at) else {
            assert!(at >= size, "no hole at the end");
            return;
        };
        let data = seek_data(cached, hole).unwrap_or(size).max(hole);
        let zeros = file.wanted(hole, data - hole).iter().all(|&b| b == 0);
        assert!(zeros, "data in the hole {hole}..{data} of {which}");
    }

    fn change(&mut self, which: usize) {
        let (at, len) = self.anywhere(which);
        let size = self.files[which].size();
        let bytes = pattern(self.random.next(), len as usize);
        let coin = self.random.below(2) == 0;
        match self.random.below(100) {
            0..25 => {
                self.history.add(format!("{which}: write {at}+{len} of {size}"));
                self.files[which].open().cached.write_all_at(&bytes, at).unwrap();
                self.files[which].put(at, &bytes);
            }
            25..40 => {
                let at = at / SECTOR * SECTOR;
                let bytes = &bytes[..(len / SECTOR * SECTOR) as usize];
                self.history.add(format!("{which}: direct write {at}+{} of {size}", bytes.len()));
                write_direct(&self.files[which].open().direct, bytes, at);
                self.files[which].put(at, bytes);
            }
            40..60 => {
                let Some((at, len)) = self.inside(which) else { return };
                let bytes = &pattern(self.random.next(), len as usize);
                self.history.add(format!("{which}: mmap write {at}+{len} of {size}, msync {coin}"));
                let map = &mut self.files[which].open().map;
                map.write(at as usize, bytes);
                if coin {
                    map.sync();
                }
                self.files[which].put(at, bytes);
            }
            60..72 => {
                self.history.add(format!("{which}: truncate {size} to {at}, by path {coin}"));
                let file = &mut self.files[which];
                let cached = &file.open().cached;
                if coin {
                    truncate(&file.path, at as i64)
                } else {
                    cached.set_len(at).unwrap()
                }
                file.data.resize(at as usize, 0);
            }
            72..88 if len > 0 => self.allocate(which, at, len),
            88..96 => self.copy(which, at, len),
            96..98 if self.behind && !size.is_multiple_of(BLOCK) => {
                self.history.add(format!("{which}: mmap write behind the end {size}"));
                let behind = size.next_multiple_of(BLOCK) - size;
                self.files[which].open().map.write(size as usize, &bytes[..behind.min(len) as usize]);
                return;
            }
            _ => {
                self.history.add(format!("{which}: sync, data alone {coin}"));
                let cached = &self.files[which].open().cached;
                if coin { cached.sync_data() } else { cached.sync_all() }.unwrap();
            }
        }
        // Around the change.
        let size = self.files[which].size();
        let (from, to) = (at.saturating_sub(5000).min(size), (at + len + 5000).min(size));
        if self.random.below(2) == 0 && from < to {
            self.check(which, from, to - from);
        }
    }

    fn allocate(&mut self, which: usize, at: u64, len: u64) {
        let modes = [0, libc::FALLOC_FL_KEEP_SIZE, PUNCH, PUNCH, PUNCH, ZERO, ZERO_KEEP];
        let mode = modes[self.random.below(modes.len() as u64) as usize];
        let file = &mut self.files[which];
        self.history.add(format!("{which}: fallocate mode {mode} {at}+{len} of {}", file.size()));
        fallocate(&file.open().cached, mode, at, len).unwrap();
        if matches!(mode, PUNCH | ZERO | ZERO_KEEP) {
            file.clear(at, len);
        }
        if matches!(mode, 0 | ZERO) {
            file.data.resize(file.data.len().max((at + len) as usize), 0);
        }
    }

    /// From either file to `at` of `which`.
    fn copy(&mut self, which: usize, at: u64, len: u64) {
        let source = self.random.below(2) as usize;
        let Some((from, n)) = self.inside(source) else { return };
        let mut len = len.min(n);
        if source == which {
            // Ranges of one file must not overlap.
            len = len.min(from.abs_diff(at));
        }
        if len == 0 {
            return;
        }
        self.history.add(format!("{which}: copy from {source} {from}+{len} to {at} of {}", self.files[which].size()));
        self.files.iter_mut().for_each(|file| _ = file.open());
        let [from_file, to_file] = [source, which].map(|i| &self.files[i].open.as_ref().expect("just opened").cached);
        let done = copy_file_range(from_file, from, to_file, at, len as usize).unwrap() as u64;
        assert!(done > 0 && done <= len, "{done} of {len} copied");
        let bytes = self.files[source].wanted(from, done).to_vec();
        self.files[which].put(at, &bytes);
    }

    /// A place and a length that suit a change; the file may grow.
    fn anywhere(&mut self, which: usize) -> (u64, u64) {
        let size = self.files[which].size();
        let r = &mut self.random;
        let at = match r.below(6) {
            0 => size,
            1 => r.below(size / BLOCK + 1) * BLOCK,
            2 => r.below(SIZE_MAX),
            _ => r.below(size + 1),
        };
        let len = match r.below(4) {
            0 => r.below(100),
            1 => BLOCK * (1 + r.below(20)),
            _ => r.below(60_000),
        };
        (at, len.min(SIZE_MAX - at))
    }

    /// A range of the file that is not empty, if it has any byte.
    fn inside(&mut self, which: usize) -> Option<(u64, u64)> {
        let size = self.files[which].size();
        let (at, len) = self.anywhere(which);
        let at = at.min(size.checked_sub(1)?);
        Some((at, len.clamp(1, size - at)))
    }

    fn check(&mut self, which: usize, at: u64, len: u64) {
        let way = Way::random(&mut self.random);
        self.history.add(format!("{which}: read {at}+{len} by {way:?}"));
        let seen = self.files[which].read(way, at, len);
        if let Some(difference) = difference(&seen, self.files[which].wanted(at, len), at) {
            panic!("{which}, read by {way:?}, {difference}");
        }
    }

    fn check_all(&mut self, which: usize) {
        let size = self.files[which].open().cached.metadata().unwrap().len();
        assert_eq!(size, self.files[which].size(), "size of {which}");
        if size > 0 {
            self.check(which, 0, size);
        }
    }
}

// Two processes, one file: each has ranges of its own, which share blocks in the first part of the file. What lies behind
// those is of the first process alone, which makes the file longer and shorter there.

const SHARED: u64 = 64 * BLOCK;
const TAIL: u64 = 2 * SHARED;
/// Not a divisor of a block: neighbours share blocks and pages.
const PIECE: u64 = 1777;
const ROUNDS: u64 = 4;

fn two_processes_on_one_file(setup: &Setup) {
    let (seed, ops) = (from_env("FSX_SEED", SEED), from_env("FSX_OPS", OPS));
    eprintln!("FSX_SEED={seed} FSX_OPS={ops}");
    let mut mount = Mounted::new(setup);
    let path = mount.path("file");
    let mut data = pattern(seed, TAIL as usize);
    fs::write(&path, &data).unwrap();
    let models = [0, 1].map(|index| mount.scratch().join(format!("model-{index}")));
    for round in 0..ROUNDS {
        let mut workers: Vec<Running> = Vec::new();
        for (index, model) in models.iter().enumerate() {
            fs::write(model, &data).unwrap();
            let worker = Worker {
                file: path.clone(),
                model: model.clone(),
                index: index as u64,
                seed: seed + round * 1000 + index as u64,
                ops: ops / ROUNDS,
            };
            workers.push(Running(worker.start()));
        }
        let patience = Duration::from_secs(60) + Duration::from_millis(20) * ops as u32;
        for worker in &mut workers {
            let mut status = None;
            wait_until("a process of the test ends", patience, || {
                status = worker.0.try_wait().expect("its status");
                status.is_some()
            });
            assert!(status.is_some_and(|status| status.success()), "FSX_SEED={seed}, round {round}: {status:?}");
        }
        for (index, model) in models.iter().enumerate() {
            let model = fs::read(model).unwrap();
            if index == 0 {
                data.truncate(TAIL as usize);
                data.extend_from_slice(&model[TAIL as usize..]);
            }
            for (at, len) in pieces(index as u64) {
                let range = at as usize..(at + len) as usize;
                data[range.clone()].copy_from_slice(&model[range]);
            }
        }
        let same = |when: &str| {
            if let Some(difference) = difference(&fs::read(&path).unwrap(), &data, 0) {
                panic!("FSX_SEED={seed}, round {round}, {when}: {difference}");
            }
        };
        same("after both ended");
        mount.remount();
        same("after a remount");
    }
}

/// A process that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The ranges of the process with this index.
fn pieces(index: u64) -> Vec<(u64, u64)> {
    let small = (0..SHARED / PIECE).map(|i| (i, i * PIECE, PIECE));
    let whole = (0..SHARED / BLOCK / 2).map(|i| (i, SHARED + i * 2 * BLOCK, 2 * BLOCK));
    small.chain(whole).filter(|(i, ..)| i % 2 == index).map(|(_, at, len)| (at, len)).collect()
}

/// One of the processes.
struct Worker {
    file: PathBuf,
    /// What the file holds, before and after.
    model: PathBuf,
    index: u64,
    seed: u64,
    ops: u64,
}

impl Worker {
    fn start(&self) -> Child {
        let numbers = [self.index, self.seed, self.ops].map(|number| number.to_string());
        Command::new(std::env::current_exe().expect("this binary"))
            .arg(WORKER)
            .args([&self.file, &self.model])
            .args(numbers)
            .spawn()
            .expect("this binary runs")
    }

    fn from_arguments(arguments: &[String]) -> Self {
        let number = |at: usize| arguments[at].parse().expect("a number");
        let path = |at: usize| Path::new(&arguments[at]).to_owned();
        Self { file: path(0), model: path(1), index: number(2), seed: number(3), ops: number(4) }
    }

    fn run(&self) {
        let mut file = Tracked::new(self.file.clone(), fs::read(&self.model).expect("the model"));
        let (mut random, mut history) =
            (Random(self.seed), History::new(format!("process {}, seed {}", self.index, self.seed)));
        let pieces = pieces(self.index);
        for _ in 0..self.ops {
            if self.index == 0 && random.below(8) == 0 {
                self.change_tail(&mut file, &mut random, &mut history);
                continue;
            }
            let (at, len) = pieces[random.below(pieces.len() as u64) as usize];
            self.step(&mut file, at, len, &mut random, &mut history);
        }
        for &(at, len) in &pieces {
            self.check(&mut file, Way::random(&mut random), at, len);
        }
        drop(file.open.take());
        fs::write(&self.model, &file.data).expect("the model");
    }

    /// An operation on one of the own ranges.
    fn step(&self, file: &mut Tracked, start: u64, len: u64, random: &mut Random, history: &mut History) {
        // Of whole blocks, which nobody else writes to: without that, O_DIRECT and copies are not safe beside writes to
        // mappings on any file system.
        let alone = start >= SHARED;
        let (at, end) = (start + random.below(len / 2), start + len - random.below(len / 2));
        let bytes = pattern(random.next(), (end - at) as usize);
        match random.below(100) {
            0..25 => {
                history.add(format!("write {at}..{end}"));
                file.open().cached.write_all_at(&bytes, at).unwrap();
                file.put(at, &bytes);
            }
            25..45 => {
                let sync = random.below(4) == 0;
                history.add(format!("mmap write {at}..{end}, msync {sync}"));
                let map = &mut file.open().map;
                map.write(at as usize, &bytes);
                if sync {
                    map.sync();
                }
                file.put(at, &bytes);
            }
            45..55 => {
                let mode = [PUNCH, ZERO_KEEP][random.below(2) as usize];
                history.add(format!("fallocate mode {mode} {at}..{end}"));
                fallocate(&file.open().cached, mode, at, end - at).unwrap();
                file.clear(at, end - at);
            }
            55..65 if alone => {
                history.add(format!("direct write {start}+{len}"));
                let bytes = pattern(random.next(), len as usize);
                write_direct(&file.open().direct, &bytes, start);
                file.put(start, &bytes);
            }
            65..72 if alone => {
                history.add(format!("copy {start}+{BLOCK} to {}", start + BLOCK));
                let cached = &file.open().cached;
                let done = copy_file_range(cached, start, cached, start + BLOCK, BLOCK as usize).unwrap();
                assert_eq!(done as u64, BLOCK);
                let bytes = file.wanted(start, BLOCK).to_vec();
                file.put(start + BLOCK, &bytes);
            }
            72..77 => {
                history.add("fsync".into());
                file.open().cached.sync_all().unwrap();
            }
            77..79 => {
                history.add("drop cache".into());
                drop_cache(&file.open().cached);
            }
            79..81 => {
                history.add("close, open".into());
                file.open = None;
            }
            81..84 => {
                history.add(format!("seek from {start}"));
                let cached = &file.open().cached;
                let hole = seek_hole(cached, start).unwrap();
                let data = seek_data(cached, hole).unwrap_or(file.size());
                // What of it is this process' own.
                let (from, to) = (hole.min(start + len), data.min(start + len));
                assert!(file.wanted(from, to - from).iter().all(|&b| b == 0), "data in the hole {hole}..{data}");
            }
            _ => {
                let way = Way::random(random);
                history.add(format!("read {start}+{len} by {way:?}"));
                self.check(file, way, start, len);
            }
        }
    }

    /// The file gets longer or shorter, by truncation or by writing.
    fn change_tail(&self, file: &mut Tracked, random: &mut Random, history: &mut History) {
        let to = TAIL + random.below(SIZE_MAX - TAIL);
        if random.below(3) == 0 {
            history.add(format!("truncate {} to {to}", file.size()));
            file.open().cached.set_len(to).unwrap();
            file.data.resize(to as usize, 0);
        } else {
            let from = TAIL + random.below(to - TAIL + 1).max((to - TAIL).saturating_sub(30_000));
            let bytes = pattern(random.next(), (to - from) as usize);
            history.add(format!("write {from}..{to} of {}", file.size()));
            file.open().cached.write_all_at(&bytes, from).unwrap();
            file.put(from, &bytes);
        }
        let size = file.open().cached.metadata().unwrap().len();
        assert_eq!(size, file.size(), "size");
        let way = Way::random(random);
        history.add(format!("read {TAIL}..{size} by {way:?}"));
        self.check(file, way, TAIL, size - TAIL);
    }

    fn check(&self, file: &mut Tracked, way: Way, at: u64, len: u64) {
        let seen = file.read(way, at, len);
        if let Some(difference) = difference(&seen, file.wanted(at, len), at) {
            panic!("read by {way:?}, {difference}");
        }
    }
}
