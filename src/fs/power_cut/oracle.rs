//! What may be found after a power cut: the promises of `docs/FORMAT.md` section 8, byte by byte and name by name.

use std::collections::BTreeMap;

/// What a byte reads as: its value, or an error.
pub type Seen = Option<u8>;

/// A file's promises. Bytes fsynced read as fsynced or as written later.
#[derive(Clone, Default, Debug)]
pub struct Promise {
    pub now: Vec<u8>,
    base: Vec<u8>,
    /// Writes since the last fsync: offset, length, value.
    later: Vec<(usize, usize, u8)>,
    /// The lowest length since the last fsync.
    min_len: usize,
    /// Blocks that an earlier cut has left unreadable, and those of them that were not overwritten since.
    lost: Vec<usize>,
    lost_now: Vec<usize>,
}

const BLOCK: usize = 4096;

impl Promise {
    pub fn write(&mut self, off: usize, len: usize, value: u8) {
        self.grow(off + len);
        self.now[off..off + len].fill(value);
        self.later.push((off, len, value));
        self.lost_now.retain(|block| !(off <= block * BLOCK && off + len >= (block + 1) * BLOCK));
    }

    pub fn set_len(&mut self, len: usize) {
        self.grow(len);
        self.now.truncate(len);
        self.min_len = self.min_len.min(len);
    }

    fn grow(&mut self, len: usize) {
        let old = self.now.len();
        if len > old {
            self.now.resize(len, 0);
            self.later.push((old, len - old, 0));
        }
    }

    pub fn fsync(&mut self) {
        self.base.clone_from(&self.now);
        self.later.clear();
        self.lost.clone_from(&self.lost_now);
        self.min_len = self.now.len();
    }

    /// After a cut: what was found is what there is.
    pub fn restart(&mut self, seen: &[Seen]) {
        self.now = seen.iter().map(|byte| byte.unwrap_or(0)).collect();
        self.lost_now = (0..seen.len().div_ceil(BLOCK)).filter(|block| seen[block * BLOCK].is_none()).collect();
        self.fsync();
    }

    /// `None`: the file cannot be opened.
    pub fn check(&self, seen: Option<&[Seen]>) -> Result<(), String> {
        let Some(seen) = seen else {
            let excused = self.min_len == 0 || self.base.is_empty();
            return if excused { Ok(()) } else { Err("the file cannot be opened".into()) };
        };
        let least = self.base.len().min(self.min_len);
        if seen.len() < least {
            return Err(format!("the file has {} bytes of {least}", seen.len()));
        }
        // Bytes that may be anything but other data: never fsynced.
        let loose = least;
        let mut good: Vec<bool> = (0..seen.len())
            .map(|p| match seen[p] {
                None => p >= loose || self.lost.contains(&(p / BLOCK)),
                Some(byte) => {
                    self.base.get(p) == Some(&byte) || (byte == 0 && (p >= loose || self.lost.contains(&(p / BLOCK))))
                }
            })
            .collect();
        for &(off, len, value) in &self.later {
            for p in off..(off + len).min(seen.len()) {
                good[p] |= seen[p] == Some(value);
            }
        }
        match good.iter().position(|good| !good) {
            None => Ok(()),
            Some(p) => Err(format!(
                "byte {p} is {:?}, fsynced as {:?}, of {} bytes (least {least})",
                seen[p],
                self.base.get(p),
                seen.len()
            )),
        }
    }
}

/// What a path names.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Object {
    Dir,
    Link(Vec<u8>),
    /// A file, by the number that the test gave it.
    File(usize),
}

/// All paths, relative to the root.
pub type Names = BTreeMap<Vec<u8>, Object>;

/// What a sync makes durable of names, at the least.
pub enum Settles<'a> {
    /// The names of the file at this path, and of the directories above.
    Entry(&'a [u8]),
    /// The names in this directory, and of the directories above.
    Dir(&'a [u8]),
    All,
}

/// Since which step of the history names are durable.
#[derive(Clone, Default)]
pub struct Settled {
    all: usize,
    paths: BTreeMap<Vec<u8>, usize>,
    in_dirs: BTreeMap<Vec<u8>, usize>,
}

impl Settled {
    pub fn note(&mut self, what: Settles<'_>, names: &Names, step: usize) {
        let path = match what {
            Settles::All => {
                *self = Self { all: step, ..Self::default() };
                return;
            }
            Settles::Dir(path) => {
                self.in_dirs.insert(path.to_vec(), step);
                path
            }
            Settles::Entry(path) => {
                let links = names.iter().filter(|(_, object)| names.get(path) == Some(object));
                self.paths.extend(links.map(|(path, _)| (path.clone(), step)));
                parent(path)
            }
        };
        let mut above = path;
        while !above.is_empty() {
            self.paths.insert(above.to_vec(), step);
            above = parent(above);
        }
    }

    pub fn since(&self, path: &[u8]) -> usize {
        let of = |known: Option<&usize>| known.copied().unwrap_or(0);
        self.all.max(of(self.paths.get(path))).max(of(self.in_dirs.get(parent(path))))
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(b"", |slash| &path[..slash])
}
