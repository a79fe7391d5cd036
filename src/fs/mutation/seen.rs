//! Opens a volume as `mount` does, and reads what is in it: every name, attribute and byte, and every error.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;

use crate::backing;
use crate::cli::exit_code::Exit;
use crate::command::check::report::{Finding, Report};
use crate::command::check::{self, How, Unlocked};
use crate::content;
use crate::content::examine::Depth;
use crate::durable::{Durability, Redo, Sessions};
use crate::format::VOLUME_FILE;
use crate::format::derived::VolumeKeys;
use crate::format::layout::{BLOCK, blocks};
use crate::format::volume::{UnverifiedVolume, VOLUME_FILE_MAX, Volume};
use crate::fs::power_cut::rig;
use crate::fs::{Fs, FsError, FsOptions, ROOT};

/// What a call gave: its value or its errno.
pub type Got<T> = Result<T, i32>;
pub type Path8 = Vec<u8>;

/// Blocks that are read where a file has more than these: its first and last ones, and those that the corpus names.
const WHOLE: u64 = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Dir(Got<BTreeSet<Vec<u8>>>),
    Link(Got<Vec<u8>>),
    /// Of what was opened: the size and the blocks that were read.
    File(Got<Content>),
    /// It was not asked for.
    Unread,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub size: u64,
    pub blocks: BTreeMap<u64, Got<Vec<u8>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub listed: bool,
    /// The error of its look-up, or its kind.
    pub kind: Got<FileType>,
    /// What `stat` says before it is opened; of directories it is not looked at.
    pub size: u64,
    pub xattrs: BTreeMap<Vec<u8>, Got<Vec<u8>>>,
    pub body: Body,
}

impl Object {
    pub fn content(&self) -> Option<&Content> {
        match &self.body {
            Body::File(Ok(content)) => Some(content),
            _ => None,
        }
    }
}

/// Everything that a mount shows, by path. The root is the empty path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub objects: BTreeMap<Path8, Object>,
    /// Where each of them is stored, under the backing directory.
    pub stored: BTreeMap<Path8, String>,
}

/// What is known of a volume before it is looked at, and what is asked for.
pub struct Wanted<'a> {
    /// Paths that are looked up whether they are listed or not, and blocks and xattrs that are read whether there are
    /// others or not.
    pub known: &'a Seen,
    /// Files whose contents are read; `None`: all.
    pub read: Option<&'a BTreeSet<Path8>>,
    /// Of large files: the blocks to read.
    pub blocks: &'a BTreeMap<Path8, Vec<u64>>,
    pub read_only: bool,
}

struct Parts {
    root: OwnedFd,
    claims: Volume,
    keys: VolumeKeys,
}

fn parts(at: &Path) -> Result<Parts, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let root = backing::open_root(at).map_err(|e| text(&e))?;
    let bytes = backing::read_file(root.as_fd(), VOLUME_FILE, VOLUME_FILE_MAX).map_err(|e| text(&e))?;
    let unverified = UnverifiedVolume::parse(&bytes).map_err(|e| text(&e))?;
    let suite = unverified.claimed().suite;
    let volume_key = rig::plaintext(&unverified.claimed().wrappings[0].blob, suite.key_len());
    let keys = VolumeKeys::derive(suite, unverified.claimed().id, &volume_key);
    let claims = unverified.verify(&keys.volume).map_err(|e| text(&e))?;
    Ok(Parts { root, claims, keys })
}

/// Mounts without a kernel. An error is a mount that is refused.
pub fn mount(at: &Path, read_only: bool) -> Result<Arc<Fs>, String> {
    let Parts { root, claims, keys } = parts(at)?;
    let sessions = Sessions::open(root.as_fd(), keys.state.clone(), false).map_err(|e| e.to_string())?;
    let redo = Redo::new(root.as_fd(), sessions.crashed()).map_err(|e| e.to_string())?;
    let file_keys = rig::keys(keys.suite, claims.files_per_data_key);
    let volume = Arc::new(content::Volume { keys, sessions, redo, durability: Durability::Safe });
    let options = FsOptions { read_only, change_owner: false, fetch_ahead: false };
    let fs = Fs::new(volume.clone(), claims.names, claims.name_max, file_keys, root, options);
    let fs = fs.map_err(|e| e.to_string())?;
    if !read_only {
        volume.sessions.begin().map_err(|e| e.to_string())?;
    }
    Ok(Arc::new(fs))
}

/// What `kmsfs check` finds; an error is a check that is refused.
pub fn check(at: &Path) -> Result<(Option<Exit>, Vec<Finding>), String> {
    let Parts { root, claims, keys } = parts(at)?;
    let file_keys = rig::keys(keys.suite, claims.files_per_data_key);
    let (mode, name_max) = (claims.names, claims.name_max);
    let volume = Unlocked { root, keys, mode, name_max, data_keys: file_keys, runtime: rig::runtime() };
    let how = How {
        depth: Depth::Blocks,
        structure: false,
        files_only: false,
        repair: false,
        live: false,
        progress: false,
        threads: 0,
    };
    let report = check::check(volume, how, None, Report::default()).map_err(|failure| failure.error.to_string())?;
    let exit = report.tally().exit();
    let findings = std::mem::take(&mut *report.findings());
    Ok((exit, findings))
}

/// Mounts and looks. An error is a mount that is refused.
pub fn look(at: &Path, wanted: &Wanted<'_>) -> Result<Seen, String> {
    let fs = mount(at, wanted.read_only)?;
    let mut look = Look { fs: &fs, at, wanted, seen: Seen::default() };
    let root = fs.getattr(ROOT).map_err(|e| e.to_string())?;
    look.object(ROOT, root.kind, 0, true, &[]);
    let seen = look.seen;
    if !wanted.read_only {
        fs.end();
    }
    Ok(seen)
}

struct Look<'a> {
    fs: &'a Fs,
    at: &'a Path,
    wanted: &'a Wanted<'a>,
    seen: Seen,
}

impl Look<'_> {
    fn object(&mut self, id: u64, kind: FileType, size: u64, listed: bool, path: &[u8]) {
        let stored = self.fs.stored_path(id);
        let stored = stored.strip_prefix(&*self.at.to_string_lossy()).unwrap_or(&stored).trim_start_matches('/');
        self.seen.stored.insert(path.to_vec(), stored.to_owned());
        let body = match kind {
            FileType::Directory => Body::Dir(self.directory(id, path)),
            FileType::Symlink => Body::Link(self.fs.readlink(id).map_err(|e| e.errno())),
            FileType::RegularFile if self.wanted.read.is_none_or(|read| read.contains(path)) => {
                Body::File(self.file(id, path))
            }
            FileType::RegularFile => Body::Unread,
            _ => Body::Other,
        };
        let size = if kind == FileType::Directory { 0 } else { size };
        let xattrs = self.xattrs(id, path);
        self.seen.objects.insert(path.to_vec(), Object { listed, kind: Ok(kind), size, xattrs, body });
    }

    fn directory(&mut self, id: u64, path: &[u8]) -> Got<BTreeSet<Vec<u8>>> {
        let listed = rig::list(self.fs, id).map_err(|e| e.errno());
        let mut twice = BTreeSet::new();
        let mut names: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        for (name, _) in listed.iter().flatten() {
            if names.insert(name.clone(), true).is_some() {
                // Shown as an entry that nobody made.
                twice.insert([&name[..], b" (twice)"].concat());
            }
        }
        let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        for known in self.wanted.known.objects.keys() {
            if let Some(name) = known.strip_prefix(&prefix[..])
                && !name.is_empty()
                && !name.contains(&b'/')
            {
                names.entry(name.to_vec()).or_insert(false);
            }
        }
        for (name, listed) in names.iter() {
            let path = [&prefix[..], name].concat();
            match self.fs.lookup(id, name) {
                Ok(entry) => self.object(entry.attr.ino, entry.attr.kind, entry.attr.size, *listed, &path),
                Err(e) => {
                    let (kind, xattrs) = (Err(e.errno()), BTreeMap::new());
                    self.seen
                        .objects
                        .insert(path, Object { listed: *listed, kind, size: 0, xattrs, body: Body::Unread });
                }
            }
        }
        listed.map(|_| names.into_iter().filter(|(_, listed)| *listed).map(|(name, _)| name).chain(twice).collect())
    }

    fn xattrs(&self, id: u64, path: &[u8]) -> BTreeMap<Vec<u8>, Got<Vec<u8>>> {
        let mut out = BTreeMap::new();
        match self.fs.listxattr(id) {
            Ok(list) => {
                let known = self.wanted.known.objects.get(path);
                let known = known.iter().flat_map(|object| object.xattrs.keys()).map(Vec::as_slice);
                for name in list.split(|&b| b == 0).filter(|name| !name.is_empty()).chain(known) {
                    match self.fs.getxattr(id, name).map_err(|e| e.errno()) {
                        Err(libc::ENODATA) => {}
                        got => drop(out.insert(name.to_vec(), got)),
                    }
                }
            }
            Err(e) => drop(out.insert(Vec::new(), Err(e.errno()))),
        }
        out
    }

    fn file(&self, id: u64, path: &[u8]) -> Got<Content> {
        let open = |id| rig::with_key(self.fs, |ready| self.fs.open(id, false, ready));
        let mut id = id;
        let mut opened = open(id);
        if matches!(opened, Err(FsError::Stale)) {
            // As the kernel does: the look-up brings the right size.
            id = self.look_up(path).map_err(|e| e.errno())?;
            opened = open(id);
        }
        let handle = opened.map_err(|e| e.errno())?;
        let size = self.fs.getattr(id).map_err(|e| e.errno())?.size;
        let mut numbers: BTreeSet<u64> = match self.wanted.blocks.get(path) {
            Some(numbers) => numbers.iter().copied().collect(),
            None => (0..blocks(size).min(WHOLE)).collect(),
        };
        numbers.extend(blocks(size).checked_sub(1));
        let read = |block: u64| {
            let (off, len) = (block * BLOCK, (size - block * BLOCK).min(BLOCK) as usize);
            self.fs
                .read(handle, off, len, |bytes| bytes.map(<[u8]>::to_vec))
                .inspect(|bytes| assert_eq!(bytes.len(), len, "a short read inside the file"))
                .map_err(|e| e.errno())
        };
        let blocks =
            numbers.into_iter().filter(|block| block * BLOCK < size).map(|block| (block, read(block))).collect();
        self.fs.release(handle).map_err(|e| e.errno())?;
        Ok(Content { size, blocks })
    }

    fn look_up(&self, path: &[u8]) -> Result<u64, FsError> {
        let mut id = ROOT;
        for name in path.split(|&b| b == b'/') {
            id = self.fs.lookup(id, name)?.attr.ino;
        }
        Ok(id)
    }
}
