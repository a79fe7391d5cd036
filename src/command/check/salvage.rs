//! Copies of everything that is readable. What lies in the new directory was made here alone: nothing that is there is
//! ever overwritten. The names that begin with `kmsfs.` can belong to no file of the volume.

use std::collections::HashSet;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::backing::{self, XattrsOf};
use crate::cli::exit_code::Exit;
use crate::command::{OrExit, Outcome, fail};
use crate::content::ContentError;
use crate::content::examine::Head;
use crate::format::layout::BLOCK;

use super::Checker;
use super::files::Looked;
use super::report::{Kind, Severity, count};
use super::walk::Where;

/// Holds what has no name that can be told.
const LOST_AND_FOUND: &str = "kmsfs.lost+found";
/// Says what the copies lack.
const HOLES: &str = "kmsfs.holes.json";

/// A name in a directory of the copy.
#[derive(Clone)]
pub struct Place {
    /// The directory that holds it, and its path in the copy.
    dir: Arc<OwnedFd>,
    name: Vec<u8>,
    path: Vec<u8>,
    /// For a directory: itself, once it is made.
    own: Option<Arc<OwnedFd>>,
}

/// A directory whose owner, mode and times are set when nothing is made in it any more.
struct Made {
    path: Vec<u8>,
    stat: Stat,
}

pub struct Salvage {
    root: Arc<OwnedFd>,
    /// Only root can give files away.
    change_owner: bool,
    lost: Mutex<Option<Arc<OwnedFd>>>,
    /// Names in it that are given out.
    given: Mutex<HashSet<Vec<u8>>>,
    dirs: Mutex<Vec<Made>>,
    links: Mutex<Vec<(Place, Place, Where)>>,
    incomplete: Mutex<Vec<Value>>,
    missed: Mutex<Vec<Value>>,
}

impl Salvage {
    /// # Errors
    /// A directory that is not empty, or that lies in the backing directory or around it.
    pub fn new(dir: &Path, backing_dir: &Path) -> Outcome<Self> {
        use std::os::unix::fs::DirBuilderExt;
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(e).or_exit(Exit::Other, format!("cannot make {}", dir.display()));
            }
            _ => {}
        }
        let entries = std::fs::read_dir(dir).or_exit(Exit::Usage, format!("cannot look into {}", dir.display()))?;
        if entries.count() > 0 {
            return fail(Exit::Usage, format!("{} is not empty: a salvage overwrites nothing", dir.display()));
        }
        if let (Ok(b), Ok(d)) = (backing_dir.canonicalize(), dir.canonicalize())
            && (b.starts_with(&d) || d.starts_with(&b))
        {
            return fail(Exit::Usage, "the copies and the backing directory must not contain each other");
        }
        let root = backing::open_root(dir).or_exit(Exit::Other, format!("cannot open {}", dir.display()))?;
        Ok(Self {
            root: Arc::new(root),
            change_owner: rustix::process::geteuid().is_root(),
            lost: Mutex::default(),
            given: Mutex::default(),
            dirs: Mutex::default(),
            links: Mutex::default(),
            incomplete: Mutex::default(),
            missed: Mutex::default(),
        })
    }

    pub fn root(&self) -> Place {
        Place { dir: self.root.clone(), name: b".".to_vec(), path: Vec::new(), own: Some(self.root.clone()) }
    }

    /// Where an entry of the directory `parent` is copied to; without a name it is lost and found.
    pub fn place(&self, parent: &Place, name: Option<&[u8]>, entry: &[u8]) -> Option<Place> {
        if let Some(name) = name {
            let path = if parent.path.is_empty() { name.to_vec() } else { [&parent.path, &b"/"[..], name].concat() };
            return Some(Place { dir: parent.own.clone()?, name: name.to_vec(), path, own: None });
        }
        let dir = self.lost_and_found().ok()?;
        // Entries of several directories can have one stored name.
        let name = (0..1_000_000).find_map(|n| {
            let name = if n == 0 { entry.to_vec() } else { [entry, format!(".{n}").as_bytes()].concat() };
            let taken = backing::stat_entry(dir.as_fd(), &name).is_ok() || !self.reserve(&name);
            (!taken).then_some(name)
        })?;
        let path = [LOST_AND_FOUND.as_bytes(), b"/", &name].concat();
        Some(Place { dir, name, path, own: None })
    }

    /// Names are given out by the walk, and made later.
    fn reserve(&self, name: &[u8]) -> bool {
        self.given.lock().insert(name.to_vec())
    }

    fn lost_and_found(&self) -> Result<Arc<OwnedFd>, Errno> {
        let mut lost = self.lost.lock();
        if let Some(dir) = &*lost {
            return Ok(dir.clone());
        }
        backing::mkdir(self.root.as_fd(), LOST_AND_FOUND.as_bytes(), 0o700)?;
        let dir =
            Arc::new(backing::open_dir(backing::open_entry(self.root.as_fd(), LOST_AND_FOUND.as_bytes())?.as_fd())?);
        Ok(lost.insert(dir).clone())
    }

    /// Says that something was not copied, or not whole.
    pub fn missed(&self, at: &Where, why: &str) {
        let path = at.path.as_deref().map(|path| String::from_utf8_lossy(path).into_owned());
        let stored = String::from_utf8_lossy(&at.stored);
        self.missed.lock().push(json!({ "path": path, "stored": stored, "cause": why }));
    }

    fn failed(&self, checker: &Checker<'_>, at: &Where, what: &str, e: Errno) {
        let cause = format!("{what}: {e}");
        self.missed(at, &cause);
        checker.report.add(at.finding(Severity::Unchecked, Kind::Unreadable, cause));
    }

    pub fn symlink(&self, checker: &Checker<'_>, out: &Place, target: &[u8], stat: &Stat, at: &Where) {
        let made = backing::symlink(target, out.dir.as_fd(), &out.name)
            .and_then(|()| backing::open_entry(out.dir.as_fd(), &out.name));
        match made {
            Ok(fd) => self.dress(fd.as_fd(), stat, false),
            Err(e) => self.failed(checker, at, "the symlink cannot be copied", e),
        }
    }

    pub fn special(&self, checker: &Checker<'_>, out: &Place, stat: &Stat, at: &Where) {
        let made = backing::mknod(out.dir.as_fd(), &out.name, (stat.st_mode & !0o7777) | 0o600, stat.st_rdev)
            .and_then(|()| backing::open_entry(out.dir.as_fd(), &out.name));
        match made {
            Ok(fd) => self.dress(fd.as_fd(), stat, true),
            Err(e) => self.failed(checker, at, "the special file cannot be copied", e),
        }
    }

    pub fn xattrs_of_dir(&self, out: &Place, xattrs: &[(Vec<u8>, Vec<u8>)]) {
        if let Some(own) = &out.own {
            set_xattrs(own.as_fd(), xattrs);
        }
    }

    /// A regular file: looked at and copied in one reading.
    pub fn file(
        &self,
        checker: &Checker<'_>,
        out: &Place,
        file: &OwnedFd,
        stat: &Stat,
        at: &Where,
        head: &Result<Option<Head>, ContentError>,
    ) -> Looked {
        let view = checker.volume.view();
        let copy = match backing::create(out.dir.as_fd(), &out.name, 0o600) {
            Ok(copy) => copy,
            Err(e) => {
                self.failed(checker, at, "the file cannot be copied", e);
                return checker.look(view, at, file.as_fd(), head, &|_, _| {});
            }
        };
        let failed = Mutex::new(None);
        let looked = checker.look(view, at, file.as_fd(), head, &|off, plain| {
            if let Err(e) = backing::write_at(copy.as_fd(), plain, off) {
                failed.lock().get_or_insert(e);
            }
        });
        if !looked.readable {
            let _ = backing::unlink(out.dir.as_fd(), &out.name);
            let why = looked.findings.iter().find(|finding| finding.severity != Severity::Note);
            self.missed(at, why.map_or("", |finding| &finding.cause));
            return looked;
        }
        if let Err(e) = backing::set_len(copy.as_fd(), looked.size) {
            failed.lock().get_or_insert(e);
        }
        if let Some(e) = failed.into_inner() {
            self.failed(checker, at, "the copy could not be written whole", e);
        }
        if let Ok(found) = checker.read_xattrs(file.as_fd()) {
            set_xattrs(copy.as_fd(), &found.good);
        }
        self.dress(copy.as_fd(), stat, true);
        if !looked.holes.is_empty() {
            self.note_holes(out, at, &looked);
        }
        count(&checker.report.counts.salvaged, 1);
        looked
    }

    fn note_holes(&self, out: &Place, at: &Where, looked: &Looked) {
        let holes: Vec<_> = looked
            .holes
            .iter()
            .map(|range| {
                let (start, end) = (range.start * BLOCK, (range.end * BLOCK).min(looked.size));
                json!({ "offset": start, "length": end.saturating_sub(start) })
            })
            .collect();
        self.incomplete.lock().push(json!({
            "copy": String::from_utf8_lossy(&out.path), "stored": String::from_utf8_lossy(&at.stored),
            "size": looked.size, "holes": holes,
        }));
    }

    /// Another name of a file that is being copied.
    pub fn link_later(&self, first: Place, out: Place, at: &Where) {
        self.links.lock().push((first, out, at.clone()));
    }

    /// Owner, mode and times of the stored inode.
    fn dress(&self, fd: BorrowedFd<'_>, stat: &Stat, mode: bool) {
        if self.change_owner {
            let _ = backing::chown(fd, Some(stat.st_uid), Some(stat.st_gid));
        }
        if mode {
            let _ = backing::chmod(fd, stat.st_mode & 0o7777);
        }
        let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec as _),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
        };
        let _ = backing::set_times(fd, &times);
    }

    /// Once all files are copied: other names, then directories from the deepest on, then what is missing.
    pub fn finish(&self, checker: &Checker<'_>) -> std::io::Result<()> {
        for (first, out, at) in self.links.lock().drain(..) {
            let linked = rustix::fs::linkat(
                first.dir.as_fd(),
                &first.name[..],
                out.dir.as_fd(),
                &out.name[..],
                AtFlags::empty(),
            );
            if let Err(e) = linked {
                self.failed(checker, &at, "this name of the file cannot be made", e);
            }
        }
        for made in self.dirs.lock().drain(..).rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(fd) = rustix::fs::openat(self.root.as_fd(), &made.path[..], flags, Mode::empty()) {
                self.dress(fd.as_fd(), &made.stat, true);
            }
        }
        let (incomplete, missed) = (self.incomplete.lock(), self.missed.lock());
        if incomplete.is_empty() && missed.is_empty() {
            return Ok(());
        }
        let fd = backing::create(self.root.as_fd(), HOLES.as_bytes(), 0o600)?;
        let map = json!({ "version": 1, "incomplete": *incomplete, "not_copied": *missed });
        let mut file = std::fs::File::from(fd);
        writeln!(file, "{map:#}")
    }
}

impl Checker<'_> {
    /// Makes the copy of a directory; its files come later.
    pub fn salvage_dir(&self, out: &mut Option<Place>, stat: &Stat, at: &Where) {
        let (Some(salvage), Some(place)) = (&self.salvage, out.as_mut()) else { return };
        let made = backing::mkdir(place.dir.as_fd(), &place.name, 0o700)
            .and_then(|()| backing::open_entry(place.dir.as_fd(), &place.name))
            .and_then(|fd| backing::open_dir(fd.as_fd()));
        match made {
            Ok(own) => {
                place.own = Some(Arc::new(own));
                salvage.dirs.lock().push(Made { path: place.path.clone(), stat: *stat });
            }
            Err(e) => {
                salvage.failed(self, at, "the directory cannot be copied", e);
                *out = None;
            }
        }
    }
}

fn set_xattrs(fd: BorrowedFd<'_>, xattrs: &[(Vec<u8>, Vec<u8>)]) {
    for (name, value) in xattrs {
        // Where the new file system has none, or they are not this user's to set, the copy goes without.
        let _ = backing::set_xattr(XattrsOf::Path(fd), name, value, XattrFlags::empty());
    }
}
