//! The backing directory of a volume from outside: copied whole, changed, and put back.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;

use crate::format::REDO_PREFIX;
use crate::fs::power_cut::rig;

/// One change that somebody makes below the file system. Paths are stored ones, under the backing directory.
#[derive(Clone, Debug)]
pub enum Step {
    Bytes {
        file: String,
        off: u64,
        data: Vec<u8>,
    },
    Len {
        file: String,
        len: u64,
    },
    Remove(String),
    Rename {
        from: String,
        to: String,
    },
    Exchange(String, String),
    Symlink {
        at: String,
        target: Vec<u8>,
    },
    Fifo(String),
    Empty(String),
    Mkdir(String),
    /// What lies at `from`, in any directory, is put at `to`.
    Copy {
        from: PathBuf,
        to: String,
    },
    Xattr {
        at: String,
        name: String,
        value: Option<Vec<u8>>,
    },
}

impl Step {
    fn apply(&self, root: &Path) {
        let at = |path: &str| root.join(path);
        match self {
            Self::Bytes { file, off, data } => open(&at(file)).write_all_at(data, *off).expect("writes"),
            // Not every backing takes every length.
            Self::Len { file, len } => drop(open(&at(file)).set_len(*len)),
            Self::Remove(path) => remove(&at(path)),
            Self::Rename { from, to } => fs::rename(at(from), at(to)).expect("renames"),
            Self::Exchange(a, b) => {
                rustix::fs::renameat_with(CWD, at(a), CWD, at(b), RenameFlags::EXCHANGE).expect("exchanges");
            }
            Self::Symlink { at: path, target } => {
                remove(&at(path));
                symlink(std::ffi::OsStr::from_bytes(target), at(path)).expect("links");
            }
            Self::Fifo(path) => {
                remove(&at(path));
                rustix::fs::mknodat(CWD, at(path), FileType::Fifo, Mode::from_raw_mode(0o644), 0).expect("makes");
            }
            Self::Empty(path) => {
                remove(&at(path));
                File::create(at(path)).expect("makes");
            }
            Self::Mkdir(path) => {
                remove(&at(path));
                fs::create_dir(at(path)).expect("makes");
            }
            Self::Copy { from, to } => {
                remove(&at(to));
                copy(from, &at(to));
            }
            Self::Xattr { at: path, name, value } => match value {
                Some(value) => {
                    rustix::fs::lsetxattr(at(path), name.as_str(), value, XattrFlags::empty()).expect("sets");
                }
                None => rustix::fs::lremovexattr(at(path), name.as_str()).expect("removes"),
            },
        }
    }
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What is there, if anything.
fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).expect("removes"),
        Ok(_) => fs::remove_file(path).expect("removes"),
        Err(_) => {}
    }
}

/// Files larger than this are not put back in place.
const SMALL: u64 = 4 << 20;

/// A copy of a volume that is changed, looked at, and put back, again and again.
pub struct Work {
    whole: PathBuf,
    dir: tempfile::TempDir,
}

/// How a copy is put back: file by file, as it was.
enum Undo {
    Bytes { file: String, off: u64, data: Vec<u8>, len: u64 },
    Whole { file: String, data: Vec<u8> },
}

impl Work {
    pub fn on(whole: &Path) -> Self {
        let dir = rig::fresh_dir();
        copy_tree(whole, dir.path());
        Self { whole: whole.to_owned(), dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes the changes, calls `look`, and puts everything back. `wrote`: looking may change the volume.
    pub fn with<T>(&mut self, steps: &[Step], wrote: bool, look: impl FnOnce(&Path) -> T) -> T {
        let undo: Option<Vec<Undo>> = if wrote { None } else { steps.iter().map(|step| self.undo(step)).collect() };
        steps.iter().for_each(|step| step.apply(self.dir.path()));
        let seen = look(self.dir.path());
        match undo {
            Some(undo) => undo.into_iter().rev().for_each(|undo| self.put_back(undo)),
            None => *self = Self::on(&self.whole),
        }
        seen
    }

    fn undo(&self, step: &Step) -> Option<Undo> {
        match step {
            Step::Bytes { file, off, data } => {
                let there = open(&self.path().join(file));
                let len = there.metadata().expect("exists").len();
                let mut old = vec![0; data.len().min(len.saturating_sub(*off) as usize)];
                there.read_exact_at(&mut old, *off).expect("reads");
                Some(Undo::Bytes { file: file.clone(), off: *off, data: old, len })
            }
            Step::Len { file, .. } => {
                let path = self.path().join(file);
                let small = fs::metadata(&path).expect("exists").len() <= SMALL;
                small.then(|| Undo::Whole { file: file.clone(), data: fs::read(&path).expect("reads") })
            }
            _ => None,
        }
    }

    fn put_back(&self, undo: Undo) {
        match undo {
            Undo::Bytes { file, off, data, len } => {
                let file = open(&self.path().join(file));
                file.write_all_at(&data, off).expect("writes");
                file.set_len(len).expect("cuts");
            }
            Undo::Whole { file, data } => {
                let file = open(&self.path().join(file));
                file.set_len(0).expect("cuts");
                file.write_all_at(&data, 0).expect("writes");
            }
        }
    }
}

/// Everything below `from`, as `cp -a --sparse=always` copies it.
pub fn copy_tree(from: &Path, to: &Path) {
    let mut linked = std::collections::HashMap::new();
    copy_below(from, to, &mut linked);
}

fn copy_below(from: &Path, to: &Path, linked: &mut std::collections::HashMap<u64, PathBuf>) {
    for entry in fs::read_dir(from).expect("lists").map(|entry| entry.expect("lists")) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let meta = entry.metadata().expect("exists");
        if meta.is_dir() {
            fs::create_dir(&to).expect("makes");
            copy_xattrs(&from, &to);
            copy_below(&from, &to, linked);
            continue;
        }
        if meta.nlink() > 1 {
            if let Some(first) = linked.get(&meta.ino()) {
                fs::hard_link(first, &to).expect("links");
                continue;
            }
            linked.insert(meta.ino(), to.clone());
        }
        copy(&from, &to);
    }
}

/// One file, symlink or directory with what is in it.
fn copy(from: &Path, to: &Path) {
    let meta = fs::symlink_metadata(from).expect("exists");
    if meta.is_symlink() {
        return symlink(fs::read_link(from).expect("reads"), to).expect("links");
    }
    if meta.is_dir() {
        fs::create_dir(to).expect("makes");
        copy_xattrs(from, to);
        return copy_tree(from, to);
    }
    let (source, dest) = (File::open(from).expect("opens"), File::create(to).expect("makes"));
    dest.set_len(meta.len()).expect("sets");
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
            Ok(at) => at,
            Err(Errno::NXIO) => break,
            Err(e) => panic!("{e}"),
        };
        let end = rustix::fs::seek(&source, SeekFrom::Hole(at)).expect("a hole ends each file");
        let mut data = vec![0; (end - at) as usize];
        source.read_exact_at(&mut data, at).expect("reads");
        dest.write_all_at(&data, at).expect("writes");
        at = end;
    }
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777)).expect("sets");
    copy_xattrs(from, to);
}

fn copy_xattrs(from: &Path, to: &Path) {
    for (name, value) in xattrs(from) {
        rustix::fs::lsetxattr(to, name.as_str(), &value, XattrFlags::empty()).expect("sets");
    }
}

/// The stored xattrs that are a user's.
pub fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut list = vec![0; 1 << 16];
    let n = rustix::fs::llistxattr(path, &mut list).expect("lists");
    let names = list[..n].split(|&b| b == 0).filter(|name| name.starts_with(b"user."));
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let n = rustix::fs::lgetxattr(path, CString::new(name).expect("no NUL"), &mut value).expect("reads");
            value.truncate(n);
            (String::from_utf8(name.to_vec()).expect("text"), value)
        })
        .collect()
}

pub fn redo_files(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root).expect("lists").flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with(REDO_PREFIX)).collect()
}
