//! A disk as a power cut may leave it, from the log of the changes that were made to it.
//!
//! What is assumed of the backing (`docs/CRASH.md`): names change in order, and what a sync makes durable of them is one
//! of [`NameOrder`]. Bytes written since a file's last barrier are on the disk or not, each sector
//! for itself, in any state that it had in the meantime. A cut of a file's length comes before what is written later
//! into the space that it freed. After a sync that failed nothing is durable by a later one that was not written again.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::backing::tap::Change;

use super::Random;

const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];
const ZEROS: Sector = [0; SECTOR as usize];

/// One thing on the disk that a cut finds in one of the states it had since the last barrier.
#[derive(Clone)]
enum Event<T> {
    Is(T),
    /// The file's cut of this number made it so.
    Cut(usize, T),
}

#[derive(Clone)]
struct Atom<T> {
    events: Vec<Event<T>>,
    /// A sync failed, and the system forgot that this has to be written: it stays in any of its states until it is
    /// written once more.
    lost: bool,
}

impl<T: Clone> Atom<T> {
    fn new(value: T) -> Self {
        Self { events: vec![Event::Is(value)], lost: false }
    }

    fn now(&self) -> &T {
        match self.events.last().expect("never empty") {
            Event::Is(value) | Event::Cut(_, value) => value,
        }
    }

    fn push(&mut self, event: Event<T>) {
        self.events.push(event);
        self.lost = false;
    }

    fn settle(&mut self) {
        if !self.lost {
            self.events = vec![Event::Is(self.now().clone())];
            return;
        }
        // Cuts are in the journal, and so not lost.
        let cut = self.events.iter().rposition(|event| matches!(event, Event::Cut(..))).unwrap_or(0);
        self.events.drain(..cut);
        if let Some(Event::Cut(_, value)) = self.events.first() {
            self.events[0] = Event::Is(value.clone());
        }
    }

    /// What a cut may leave, if the file's cuts up to number `cuts` are durable and those after are not.
    fn choices(&self, cuts: usize) -> Vec<&T> {
        let mut out = Vec::new();
        for event in &self.events {
            match event {
                Event::Is(value) => out.push(value),
                Event::Cut(number, value) if *number <= cuts => out = vec![value],
                Event::Cut(..) => break,
            }
        }
        out
    }
}

#[derive(Clone)]
struct File {
    sectors: BTreeMap<u64, Atom<Sector>>,
    len: Atom<u64>,
    cuts: usize,
}

impl File {
    fn new() -> Self {
        Self { sectors: BTreeMap::new(), len: Atom::new(0), cuts: 0 }
    }

    fn write(&mut self, off: u64, data: &[u8]) {
        let end = off + data.len() as u64;
        for sector in off / SECTOR..end.div_ceil(SECTOR) {
            let atom = self.sectors.entry(sector).or_insert_with(|| Atom::new(ZEROS));
            let mut bytes = *atom.now();
            let (from, to) = (off.max(sector * SECTOR), end.min((sector + 1) * SECTOR));
            bytes[(from - sector * SECTOR) as usize..(to - sector * SECTOR) as usize]
                .copy_from_slice(&data[(from - off) as usize..(to - off) as usize]);
            atom.push(Event::Is(bytes));
        }
        if end > *self.len.now() {
            self.len.events.push(Event::Is(end));
        }
    }

    fn set_len(&mut self, len: u64) {
        if len >= *self.len.now() {
            self.len.events.push(Event::Is(len));
            return;
        }
        self.cuts += 1;
        self.len.events.push(Event::Cut(self.cuts, len));
        for (&sector, atom) in self.sectors.range_mut(len / SECTOR..) {
            let keep = len.saturating_sub(sector * SECTOR).min(SECTOR) as usize;
            let mut bytes = *atom.now();
            bytes[keep..].fill(0);
            atom.push(Event::Cut(self.cuts, bytes));
        }
    }

    fn punch(&mut self, off: u64, len: u64) {
        for (_, atom) in self.sectors.range_mut(off.div_ceil(SECTOR)..(off + len) / SECTOR) {
            atom.push(Event::Is(ZEROS));
        }
    }

    fn settle(&mut self) {
        self.sectors.values_mut().for_each(Atom::settle);
        self.len.settle();
        self.cuts = 0;
    }

    /// A sync failed: what was not written until then is clean for the system all the same.
    fn lose(&mut self) {
        self.sectors.values_mut().filter(|atom| atom.events.len() > 1).for_each(|atom| atom.lost = true);
    }
}

#[derive(Clone)]
enum Node {
    Dir(BTreeMap<Vec<u8>, usize>),
    File(usize),
    Link(Vec<u8>),
}

/// A change of names.
#[derive(Clone)]
enum Naming {
    Add { dir: usize, name: Vec<u8>, node: usize },
    Remove { dir: usize, name: Vec<u8>, node: usize },
    Rename { from: (usize, Vec<u8>), to: (usize, Vec<u8>), node: usize, replaced: Option<usize>, exchange: bool },
}

impl Naming {
    fn is_in(&self, wanted: usize) -> bool {
        match self {
            Self::Add { dir, .. } | Self::Remove { dir, .. } => *dir == wanted,
            Self::Rename { from, to, .. } => from.0 == wanted || to.0 == wanted,
        }
    }

    fn is_of(&self, wanted: usize) -> bool {
        match self {
            Self::Add { node, .. } | Self::Remove { node, .. } => *node == wanted,
            Self::Rename { node, replaced, .. } => *node == wanted || *replaced == Some(wanted),
        }
    }
}

/// What a sync makes durable of names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameOrder {
    /// All earlier changes, as the journal of ext4 or XFS does.
    Journal,
    /// Those of the file that is synced, or those in the directory, and the names of the directories above; other
    /// changes may be missing that came before. So does the log of btrfs.
    Log,
}

struct Pending {
    naming: Naming,
    /// Whatever earlier changes are missing.
    durable: bool,
}

/// The directory tree by node numbers; node 0 is the root.
type Tree = Vec<Node>;

fn entries(tree: &mut Tree, dir: usize) -> &mut BTreeMap<Vec<u8>, usize> {
    match &mut tree[dir] {
        Node::Dir(entries) => entries,
        _ => panic!("the log names entries of something that is no directory"),
    }
}

fn apply(tree: &mut Tree, naming: &Naming) {
    match naming {
        Naming::Add { dir, name, node } => {
            entries(tree, *dir).insert(name.clone(), *node);
        }
        Naming::Remove { dir, name, .. } => {
            entries(tree, *dir).remove(name);
        }
        Naming::Rename { from, to, node, replaced, exchange } => {
            entries(tree, from.0).remove(&from.1);
            entries(tree, to.0).insert(to.1.clone(), *node);
            if *exchange {
                entries(tree, from.0).insert(from.1.clone(), replaced.expect("an exchange has two sides"));
            } else if *replaced == Some(*node) {
                // Two names of one file: both stay.
                entries(tree, from.0).insert(from.1.clone(), *node);
            }
        }
    }
}

/// The disk after a part of the log.
pub struct Disk {
    order: NameOrder,
    /// What is durable, whatever the cut leaves of `pending`.
    tree: Tree,
    /// The same with all of `pending`.
    now: Tree,
    /// The directory in which each node was named last.
    parents: Vec<usize>,
    pending: Vec<Pending>,
    files: Vec<File>,
    /// Inode number to node; numbers are used again.
    nodes: HashMap<u64, usize>,
}

impl Disk {
    /// An empty directory with this inode number.
    pub fn new(root: u64) -> Self {
        Self {
            order: NameOrder::Journal,
            tree: vec![Node::Dir(BTreeMap::new())],
            now: vec![Node::Dir(BTreeMap::new())],
            parents: vec![0],
            pending: Vec::new(),
            files: Vec::new(),
            nodes: HashMap::from([(root, 0)]),
        }
    }

    pub fn with_order(self, order: NameOrder) -> Self {
        Self { order, ..self }
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Create { dir, name, ino } => {
                self.files.push(File::new());
                self.add(*dir, name, *ino, Node::File(self.files.len() - 1));
            }
            Change::Mkdir { dir, name, ino } => self.add(*dir, name, *ino, Node::Dir(BTreeMap::new())),
            Change::Symlink { dir, name, ino, target } => self.add(*dir, name, *ino, Node::Link(target.clone())),
            Change::Link { dir, name, ino } => {
                let (dir, node) = (self.nodes[dir], self.nodes[ino]);
                self.name(Naming::Add { dir, name: name.clone(), node });
            }
            Change::Remove { dir, name } => {
                let dir = self.nodes[dir];
                let node = entries(&mut self.now, dir)[name];
                self.name(Naming::Remove { dir, name: name.clone(), node });
            }
            Change::Rename { from, to, exchange } => {
                let (from, to) = ((self.nodes[&from.0], from.1.clone()), (self.nodes[&to.0], to.1.clone()));
                let node = entries(&mut self.now, from.0)[&from.1];
                let replaced = entries(&mut self.now, to.0).get(&to.1).copied();
                self.parents[node] = to.0;
                self.name(Naming::Rename { from, to, node, replaced, exchange: *exchange });
            }
            Change::Write { ino, off, data } => self.file(*ino).write(*off, data),
            Change::SetLen { ino, len } => self.file(*ino).set_len(*len),
            Change::Punch { ino, off, len } => self.file(*ino).punch(*off, *len),
            Change::Sync { ino } => {
                let node = self.nodes[ino];
                if let Node::File(file) = self.tree[node] {
                    self.files[file].settle();
                }
                match self.order {
                    NameOrder::Journal => self.settle_names(),
                    NameOrder::Log => self.log_names(node),
                }
            }
            Change::SyncFailed { ino: Some(ino) } => {
                if let Node::File(file) = self.tree[self.nodes[ino]] {
                    self.files[file].lose();
                }
            }
            Change::SyncFailed { ino: None } => self.files.iter_mut().for_each(File::lose),
            Change::SyncAll => {
                self.files.iter_mut().for_each(File::settle);
                self.settle_names();
            }
        }
    }

    fn add(&mut self, dir: u64, name: &[u8], ino: u64, node: Node) {
        self.tree.push(node.clone());
        self.now.push(node);
        self.nodes.insert(ino, self.tree.len() - 1);
        let dir = self.nodes[&dir];
        self.parents.push(dir);
        self.name(Naming::Add { dir, name: name.to_vec(), node: self.tree.len() - 1 });
    }

    fn name(&mut self, naming: Naming) {
        apply(&mut self.now, &naming);
        self.pending.push(Pending { naming, durable: false });
    }

    /// The names of a node are durable, or those in it, and the names of the directories that lead there.
    fn log_names(&mut self, node: usize) {
        let is_dir = matches!(self.tree[node], Node::Dir(_));
        let mut above = vec![node];
        while above.last() != Some(&0) {
            above.push(self.parents[above[above.len() - 1]]);
        }
        for pending in &mut self.pending {
            let of = |node: &usize| pending.naming.is_of(*node);
            pending.durable |= above.iter().any(of) || (is_dir && pending.naming.is_in(node));
        }
    }

    fn file(&mut self, ino: u64) -> &mut File {
        match self.tree[self.nodes[&ino]] {
            Node::File(file) => &mut self.files[file],
            _ => panic!("the log writes to something that is no file"),
        }
    }

    fn settle_names(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            apply(&mut self.tree, &pending.naming);
        }
    }

    /// The system has written after all what it took for clean.
    pub fn keep_all(&mut self) {
        self.files.iter_mut().flat_map(|file| file.sectors.values_mut()).for_each(|atom| atom.lost = false);
    }

    /// How many states a cut could leave, if they are few; else more than `limit`.
    pub fn states(&self, limit: usize) -> usize {
        let mut states = self.pending.len() + 1;
        for file in &self.files {
            let choices = file.sectors.values().map(|atom| atom.events.len()).chain([file.len.events.len()]);
            for n in choices {
                states = states.saturating_mul(n);
                if states > limit {
                    return states;
                }
            }
        }
        states
    }

    /// Puts the state that `cut` leaves into the empty directory `at`.
    pub fn cut(&self, cut: &Cut, at: &Path) {
        let cut = &mut cut.clone();
        let mut tree = self.tree.clone();
        let names = cut.choose(self.pending.len() + 1);
        for (n, pending) in self.pending.iter().enumerate() {
            if n < names || pending.durable {
                apply(&mut tree, &pending.naming);
            }
        }
        let mut made: HashMap<usize, std::path::PathBuf> = HashMap::new();
        self.put_dir(&tree, 0, at, cut, &mut made);
    }

    fn put_dir(
        &self,
        tree: &Tree,
        dir: usize,
        at: &Path,
        cut: &mut Cut,
        made: &mut HashMap<usize, std::path::PathBuf>,
    ) {
        use std::os::unix::ffi::OsStrExt;
        let Node::Dir(entries) = &tree[dir] else { unreachable!("only called for directories") };
        for (name, &node) in entries {
            let path = at.join(std::ffi::OsStr::from_bytes(name));
            if let Some(first) = made.get(&node) {
                std::fs::hard_link(first, &path).expect("links");
                continue;
            }
            match &tree[node] {
                Node::Dir(_) => {
                    std::fs::create_dir(&path).expect("makes");
                    self.put_dir(tree, node, &path, cut, made);
                }
                Node::Link(target) => {
                    std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path).expect("links");
                }
                Node::File(file) => put_file(&self.files[*file], &path, cut),
            }
            made.insert(node, path);
        }
    }
}

fn put_file(file: &File, path: &Path, cut: &mut Cut) {
    let cuts = cut.choose(file.cuts + 1);
    let lens = file.len.choices(cuts);
    let len = *lens[cut.choose(lens.len())];
    let out = std::fs::File::create(path).expect("creates");
    let mut run: (u64, Vec<u8>) = (0, Vec::new());
    for (&sector, atom) in &file.sectors {
        let choices = atom.choices(cuts);
        let bytes = choices[cut.choose(choices.len())];
        if sector * SECTOR >= len || *bytes == ZEROS {
            continue;
        }
        if run.0 + run.1.len() as u64 != sector * SECTOR {
            out.write_all_at(&run.1, run.0).expect("writes");
            run = (sector * SECTOR, Vec::new());
        }
        run.1.extend_from_slice(bytes);
    }
    out.write_all_at(&run.1, run.0).expect("writes");
    out.set_len(len).expect("sets the length");
}

/// How a cut chooses among the states that each part of the disk may have.
#[derive(Clone, Debug)]
pub enum Cut {
    /// The state at the end of the log: the daemon was killed, the machine was not.
    Last,
    /// Nothing since the barriers.
    First,
    /// The last one in so many cases of a hundred, else any.
    Any(Random, u64),
    /// All of them in turn: the digits of a number.
    Number(usize),
}

impl Cut {
    fn choose(&mut self, n: usize) -> usize {
        match self {
            Self::Last => n - 1,
            Self::First => 0,
            Self::Any(random, last) => {
                if random.below(100) < *last {
                    n - 1
                } else {
                    random.below(n as u64) as usize
                }
            }
            Self::Number(rest) => {
                let digit = *rest % n;
                *rest /= n;
                digit
            }
        }
    }
}
