//! The walk over a backing directory: every entry is opened by descriptor, one component at a time, never through a
//! link; names, markers, links and xattrs are verified here, and regular files handed on.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::backing::{self, XattrsOf};
use crate::content::examine::{Head, look_at_head};
use crate::content::{ContentError, Result as ContentResult};
use crate::format::derived::FileId;
use crate::format::volume::NameMode;
use crate::format::{
    DIR_MARKER, LOCK_FILE, LONG_LINK_SUFFIX, REDO_PREFIX, STATE_FILE, TMP_PREFIX, VOLUME_FILE, is_long_link,
};
use crate::names::{DirId, Listed, Names, XATTR_PREFIX};

use super::Checker;
use super::report::{Finding, Kind, Severity, count};
use super::salvage::Place;

/// On a mounted volume, links younger than this may belong to an entry that is about to appear.
const IN_FLIGHT: u64 = 60;
/// And what is wrong is looked at again after this.
const SECOND_LOOK: Duration = Duration::from_millis(200);
const XATTR_MAX: usize = 64 * 1024;

/// Where an entry lies: for its findings.
#[derive(Clone, Debug, Default)]
pub struct Where {
    /// Plaintext; `None` where it, or a directory above it, cannot be told.
    pub path: Option<Vec<u8>>,
    pub stored: Vec<u8>,
}

impl Where {
    fn child(&self, name: Option<&[u8]>, stored: &[u8]) -> Self {
        let join = |dir: &[u8], name: &[u8]| if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() };
        Self {
            path: self.path.as_ref().zip(name).map(|(dir, name)| join(dir, name)),
            stored: join(&self.stored, stored),
        }
    }

    pub fn finding(&self, severity: Severity, kind: Kind, cause: impl Into<String>) -> Finding {
        Finding::new(severity, kind, self.path.as_deref(), &self.stored, cause)
    }
}

/// A regular file that is to be looked at.
pub struct Task {
    pub at: Where,
    pub file: OwnedFd,
    pub stat: Stat,
    pub head: ContentResult<Option<Head>>,
    /// Where it is copied to.
    pub out: Option<Place>,
}

/// A directory that waits to be walked.
struct Waiting {
    parent: Option<Arc<OwnedFd>>,
    entry: Vec<u8>,
    at: Where,
    out: Option<Place>,
}

/// What the walk remembers over all directories.
#[derive(Default)]
struct Seen {
    /// Files with several names, which are looked at once.
    linked: HashMap<(u64, u64), Option<Place>>,
    file_ids: HashMap<FileId, Vec<u8>>,
    dir_ids: HashMap<DirId, Vec<u8>>,
}

/// A directory being walked.
struct Dir {
    fd: Arc<OwnedFd>,
    at: Where,
    out: Option<Place>,
    /// `None` where there is no marker that verifies: no name can be told.
    id: Option<DirId>,
    is_root: bool,
}

impl Checker<'_> {
    /// Walks everything; `hand_on` gets the regular files.
    pub fn walk(&self, hand_on: &dyn Fn(Task)) {
        let out = self.salvage.as_ref().map(|salvage| salvage.root());
        let root = Where { path: Some(Vec::new()), stored: Vec::new() };
        let mut waiting = vec![Waiting { parent: None, entry: Vec::new(), at: root, out }];
        let mut seen = Seen::default();
        while let Some(next) = waiting.pop() {
            let opened = match &next.parent {
                None => backing::open_dir(self.root),
                Some(parent) => {
                    backing::open_entry(parent.as_fd(), &next.entry).and_then(|fd| backing::open_dir(fd.as_fd()))
                }
            };
            match opened {
                Ok(fd) => self.directory(Arc::new(fd), next, &mut waiting, &mut seen, hand_on),
                Err(Errno::NOENT) if self.how.live => {}
                Err(e) => self.report.add(next.at.finding(
                    Severity::Unchecked,
                    Kind::Unreadable,
                    format!("the directory cannot be opened: {e}"),
                )),
            }
        }
    }

    fn directory(
        &self,
        fd: Arc<OwnedFd>,
        here: Waiting,
        waiting: &mut Vec<Waiting>,
        seen: &mut Seen,
        hand_on: &dyn Fn(Task),
    ) {
        count(&self.report.counts.directories, 1);
        let mut entries = match list(fd.as_fd()) {
            Ok(entries) => entries,
            Err(e) => {
                let cause = format!("the directory cannot be listed: {e}");
                return self.report.add(here.at.finding(Severity::Unchecked, Kind::Unreadable, cause));
            }
        };
        entries.sort_unstable();
        let is_root = here.parent.is_none();
        let mut dir = Dir { fd, at: here.at, out: here.out, id: None, is_root };
        self.xattrs(dir.fd.as_fd(), &dir.at, dir.out.as_ref());
        let shown = entries.iter().any(|entry| !matches!(self.names().listed(entry), Listed::Own));
        if self.mode == NameMode::Encrypted {
            dir.id = self.marker(&dir, shown, seen);
        }
        // Second parts of targets that some symlink here needs.
        let mut needed = HashSet::new();
        let mut own = Vec::new();
        for entry in &entries {
            match self.names().listed(entry) {
                Listed::Own => own.push(&entry[..]),
                _ => self.entry(&dir, entry, &mut needed, waiting, seen, hand_on),
            }
        }
        for entry in own {
            self.own_entry(&dir, entry, &entries, &needed);
        }
    }

    fn marker(&self, dir: &Dir, shown: bool, seen: &mut Seen) -> Option<DirId> {
        let damaged = |cause: &str| {
            self.report.add(dir.at.finding(Severity::Damage, Kind::Marker, cause));
            None
        };
        let look = || backing::read_link(dir.fd.as_fd(), DIR_MARKER.as_bytes());
        let mut target = look();
        if self.how.live && target == Err(Errno::NOENT) && shown {
            std::thread::sleep(SECOND_LOOK);
            target = look();
        }
        let target = match target {
            Ok(target) => target,
            Err(Errno::NOENT) if !shown && !dir.is_root => return None,
            Err(Errno::NOENT) => {
                return damaged("the directory's marker kmsfs.dir is missing: its names cannot be read");
            }
            Err(e) => return damaged(&format!("the directory's marker kmsfs.dir cannot be read: {e}")),
        };
        let Ok(id) = self.names().read_marker(&target) else {
            return damaged("the directory's marker kmsfs.dir does not verify: its names cannot be read");
        };
        match seen.dir_ids.get(&id) {
            Some(first) => {
                let cause = format!(
                    "has the id of {}: a copy that was made below the file system",
                    super::report::printable(first)
                );
                self.report.add(dir.at.finding(Severity::Note, Kind::DirectoryId, cause));
            }
            None => {
                seen.dir_ids.insert(id, dir.at.stored.clone());
            }
        }
        Some(id)
    }

    /// The name of an entry, or why it has none that can be told.
    fn name_of(&self, dir: &Dir, entry: &[u8]) -> Result<Vec<u8>, (Kind, String)> {
        let names = self.names();
        let mut whole = entry.to_vec();
        if let Listed::Long { link } = names.listed(entry) {
            whole = match backing::read_link(dir.fd.as_fd(), &link) {
                Ok(whole) if names.long_entry_matches(entry, &whole) => whole,
                Ok(_) => {
                    return Err((Kind::LongName, "the link beside it that holds its long name does not fit".into()));
                }
                Err(e) => {
                    return Err((
                        Kind::LongName,
                        format!("the link beside it that holds its long name is missing: {e}"),
                    ));
                }
            };
        }
        let id = match self.mode {
            NameMode::Plain => DirId::default(),
            // The marker is what is wrong, and was told.
            NameMode::Encrypted => dir.id.ok_or((Kind::Marker, String::new()))?,
        };
        names.reveal(&id, entry, &whole).map_err(|_| {
            (
                Kind::Foreign,
                "not an entry of this directory: its name is damaged, was stored elsewhere, or never kmsfs's".into(),
            )
        })
    }

    fn entry(
        &self,
        dir: &Dir,
        entry: &[u8],
        needed: &mut HashSet<Vec<u8>>,
        waiting: &mut Vec<Waiting>,
        seen: &mut Seen,
        hand_on: &dyn Fn(Task),
    ) {
        let name = self.name_of(dir, entry);
        let at = dir.at.child(name.as_deref().ok(), entry);
        let opened = backing::open_entry(dir.fd.as_fd(), entry).and_then(|fd| Ok((backing::stat(fd.as_fd())?, fd)));
        let (stat, fd) = match opened {
            Ok(opened) => opened,
            Err(Errno::NOENT) if self.how.live => return,
            Err(Errno::XDEV) => {
                let cause = "another file system is mounted there: it was not looked at";
                return self.report.add(at.finding(Severity::Unchecked, Kind::Unreadable, cause));
            }
            Err(e) => {
                return self.report.add(at.finding(
                    Severity::Unchecked,
                    Kind::Unreadable,
                    format!("cannot be opened: {e}"),
                ));
            }
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut task = None;
        if kind == FileType::RegularFile {
            match self.task(at.clone(), fd.as_fd(), stat) {
                Ok(opened) => task = Some(opened),
                Err(e) => {
                    let cause = format!("cannot be opened for reading: {e}");
                    self.report.add(at.finding(Severity::Unchecked, Kind::Unreadable, cause));
                }
            }
        }
        if let Err((why, cause)) = &name
            && *why != Kind::Marker
        {
            let ours =
                *why == Kind::LongName || Names::looks_stored(entry) || self.is_ours(fd.as_fd(), kind, task.as_ref());
            if self.how.live && self.came_or_went(dir, entry) {
                return;
            }
            if !ours {
                let cause = "a foreign entry, which a mount does not show";
                return self.report.add(at.finding(Severity::Note, Kind::Foreign, cause));
            }
            self.report.add(at.finding(Severity::Damage, *why, cause.clone()));
        }
        let salvage = self.salvage.as_ref().zip(dir.out.as_ref());
        let mut out = salvage.and_then(|(salvage, out)| salvage.place(out, name.as_deref().ok(), entry));
        match kind {
            FileType::Directory => {
                self.salvage_dir(&mut out, &stat, &at);
                waiting.push(Waiting { parent: Some(dir.fd.clone()), entry: entry.to_vec(), at, out });
            }
            FileType::RegularFile => {
                if let Some(task) = task {
                    self.found_file(Task { out, ..task }, seen, hand_on);
                }
            }
            FileType::Symlink => {
                count(&self.report.counts.symlinks, 1);
                let target = self.target(dir, fd.as_fd(), needed);
                match target {
                    Ok(target) => {
                        if let Some((salvage, out)) = self.salvage.as_ref().zip(out.as_ref()) {
                            salvage.symlink(self, out, &target, &stat, &at);
                        }
                    }
                    Err(_) if self.how.live && self.came_or_went(dir, entry) => {}
                    Err((kind, cause)) => {
                        if let Some(salvage) = &self.salvage {
                            salvage.missed(&at, &cause);
                        }
                        self.report.add(at.finding(Severity::Damage, kind, cause));
                    }
                }
            }
            _ => {
                count(&self.report.counts.others, 1);
                if let Some((salvage, out)) = self.salvage.as_ref().zip(out.as_ref()) {
                    salvage.special(self, out, &stat, &at);
                }
            }
        }
    }

    /// On a mounted volume: whether an entry is not any more what it was a moment ago.
    fn came_or_went(&self, dir: &Dir, entry: &[u8]) -> bool {
        let look =
            || backing::stat_entry(dir.fd.as_fd(), entry).map(|stat| (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec));
        let before = look();
        std::thread::sleep(SECOND_LOOK);
        before.is_err() || look() != before
    }

    /// Whether something without a valid name belongs to this volume all the same.
    fn is_ours(&self, fd: BorrowedFd<'_>, kind: FileType, task: Option<&Task>) -> bool {
        match kind {
            FileType::RegularFile => {
                task.is_some_and(|task| matches!(&task.head, Ok(Some(head)) if head.header().is_some()))
            }
            FileType::Directory => backing::read_link(fd, DIR_MARKER.as_bytes())
                .is_ok_and(|target| self.mode == NameMode::Encrypted && self.names().read_marker(&target).is_ok()),
            FileType::Symlink => backing::read_link_of(fd)
                .is_ok_and(|target| self.mode == NameMode::Encrypted && self.names().reveal_target(&target).is_ok()),
            _ => false,
        }
    }

    fn task(&self, at: Where, fd: BorrowedFd<'_>, stat: Stat) -> Result<Task, Errno> {
        let file = backing::reopen(fd, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let head = look_at_head(self.volume.view(), file.as_fd());
        Ok(Task { at, file, stat, head, out: None })
    }

    /// Counts a file, starts to fetch its key, and gives it to whoever looks at files.
    fn found_file(&self, task: Task, seen: &mut Seen, hand_on: &dyn Fn(Task)) {
        if task.stat.st_nlink > 1 {
            let id = (task.stat.st_dev, task.stat.st_ino);
            if let Some(first) = seen.linked.get(&id) {
                if let Some(((salvage, first), out)) = self.salvage.as_ref().zip(first.as_ref()).zip(task.out) {
                    salvage.link_later(first.clone(), out, &task.at);
                }
                return;
            }
            seen.linked.insert(id, task.out.clone());
        }
        count(&self.report.counts.files, 1);
        count(&self.report.counts.known, task.stat.st_size as u64);
        self.xattrs(task.file.as_fd(), &task.at, None);
        if let Ok(Some(head)) = &task.head
            && let Some((_, header)) = head.header()
        {
            match seen.file_ids.get(&header.file_id) {
                Some(first) => {
                    let cause = format!(
                        "has the id of {}: a copy that was made below the file system",
                        super::report::printable(first)
                    );
                    self.report.add(task.at.finding(Severity::Note, Kind::FileId, cause));
                }
                None => {
                    seen.file_ids.insert(header.file_id, task.at.stored.clone());
                }
            }
            self.prefetch(header);
        }
        hand_on(task);
    }

    /// A symlink's target; its second part is noted as needed.
    fn target(&self, dir: &Dir, fd: BorrowedFd<'_>, needed: &mut HashSet<Vec<u8>>) -> Result<Vec<u8>, (Kind, String)> {
        let names = self.names();
        let unverified = |_| (Kind::Target, "the symlink's target does not verify".to_owned());
        let stored =
            backing::read_link_of(fd).map_err(|e| (Kind::Target, format!("the symlink cannot be read: {e}")))?;
        let Some(link) = names.target_rest_link(&stored) else {
            return names.reveal_target(&stored).map_err(unverified);
        };
        let rest = backing::read_link(dir.fd.as_fd(), &link);
        needed.insert(link);
        match rest {
            Ok(rest) => names.reveal_cut_target(&stored, &rest).map_err(unverified),
            Err(e) => Err((
                Kind::TargetPart,
                format!("the link with the second part of the symlink's target is missing: {e}"),
            )),
        }
    }

    /// An entry whose name begins with `kmsfs.`.
    fn own_entry(&self, dir: &Dir, entry: &[u8], entries: &[Vec<u8>], needed: &HashSet<Vec<u8>>) {
        let at = Where { path: None, ..dir.at.child(None, entry) };
        let text = String::from_utf8_lossy(entry);
        let encrypted = self.mode == NameMode::Encrypted;
        if encrypted && is_long_link(entry) {
            let of_entry = entry.strip_suffix(LONG_LINK_SUFFIX);
            let used = match of_entry {
                Some(of) => entries.binary_search_by(|entry| entry[..].cmp(of)).is_ok(),
                None => needed.contains(entry),
            };
            if used || (self.how.live && self.is_in_flight(dir, entry, of_entry)) {
                return;
            }
            let cause = "a link that belongs to no entry";
            return self.sweep(dir, entry, at.finding(Severity::Leftover, Kind::OrphanLink, cause));
        }
        match &*text {
            DIR_MARKER if encrypted => {}
            VOLUME_FILE | STATE_FILE | LOCK_FILE if dir.is_root => {}
            _ if dir.is_root && text.starts_with(TMP_PREFIX) => {
                if self.how.live && self.is_in_flight(dir, entry, None) {
                    return;
                }
                let cause = "a temporary file that a crash left";
                self.sweep(dir, entry, at.finding(Severity::Leftover, Kind::Temporary, cause));
            }
            _ if dir.is_root && text.strip_prefix(REDO_PREFIX).is_some_and(|n| n.parse::<u32>().is_ok()) => {
                let session = text[REDO_PREFIX.len()..].parse().unwrap_or(0);
                // A mount that goes on renames its own; those of sessions in the list are needed.
                if self.how.live || self.state_unknown || self.volume.sessions.crashed().contains(&session) {
                    return;
                }
                let cause = "the redo file of a session that has ended";
                self.sweep(dir, entry, at.finding(Severity::Leftover, Kind::RedoFile, cause));
            }
            _ => {
                let cause = "an entry with a name that is reserved for kmsfs, which this version does not make";
                self.report.add(at.finding(Severity::Note, Kind::Reserved, cause));
            }
        }
    }

    /// On a mounted volume: whether a link or temporary file may belong to a change that is under way.
    fn is_in_flight(&self, dir: &Dir, entry: &[u8], of_entry: Option<&[u8]>) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let young = |stat: Stat| now.saturating_sub(stat.st_ctime as u64) < IN_FLIGHT;
        if backing::stat_entry(dir.fd.as_fd(), entry).map_or(true, young) {
            return true;
        }
        std::thread::sleep(SECOND_LOOK);
        backing::stat_entry(dir.fd.as_fd(), entry).is_err()
            || of_entry.is_some_and(|of| backing::stat_entry(dir.fd.as_fd(), of).is_ok())
    }

    /// What nobody needs: with `--repair` it is removed.
    fn sweep(&self, dir: &Dir, entry: &[u8], mut finding: Finding) {
        if self.how.repair {
            match backing::unlink(dir.fd.as_fd(), entry) {
                Ok(()) => finding.repaired = true,
                Err(e) => finding.cause += &format!(" (cannot be removed: {e})"),
            }
        }
        self.report.add(finding);
    }

    /// Verifies the xattrs of an inode, and gives them to its copy.
    pub fn xattrs(&self, fd: BorrowedFd<'_>, at: &Where, out: Option<&Place>) {
        if self.how.files_only {
            return;
        }
        let found = match self.read_xattrs(fd) {
            Ok(found) => found,
            Err(Errno::OPNOTSUPP | Errno::NOENT) => return,
            Err(e) => {
                let cause = format!("its extended attributes cannot be read: {e}");
                return self.report.add(at.finding(Severity::Unchecked, Kind::Unreadable, cause));
            }
        };
        for (severity, cause) in found.wrong {
            self.report.add(at.finding(severity, Kind::Xattr, cause));
        }
        if let (Some(salvage), Some(out)) = (&self.salvage, out) {
            salvage.xattrs_of_dir(out, &found.good);
        }
    }

    pub fn read_xattrs(&self, fd: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
        let names = self.names();
        let mut list = vec![0; XATTR_MAX];
        let n = backing::list_xattrs(XattrsOf::Path(fd), &mut list)?;
        let mut found = Xattrs::default();
        for stored in list[..n].split(|&b| b == 0).filter(|stored| !stored.is_empty()) {
            let Some(name) = names.reveal_xattr_name(stored) else {
                let (severity, what) = if stored.starts_with(XATTR_PREFIX) {
                    (Severity::Damage, "the name of an extended attribute does not verify")
                } else {
                    (Severity::Note, "a foreign extended attribute, which a mount does not show")
                };
                found.wrong.push((severity, format!("{what}: {}", super::report::printable(stored))));
                continue;
            };
            let mut value = vec![0; XATTR_MAX];
            let n = match backing::get_xattr(XattrsOf::Path(fd), stored, &mut value) {
                Ok(n) => n,
                // Removed meanwhile, or not for this user to see.
                Err(_) if !stored.starts_with(b"user.") => continue,
                Err(Errno::NODATA) => continue,
                Err(e) => return Err(e),
            };
            value.truncate(n);
            match names.reveal_xattr_value(&name, &value) {
                Ok(value) => found.good.push((name, value)),
                Err(_) => {
                    let shown = super::report::printable(&name);
                    found.wrong.push((
                        Severity::Damage,
                        format!("the value of the extended attribute {shown} does not verify"),
                    ));
                }
            }
        }
        Ok(found)
    }
}

/// The xattrs of an inode, in plaintext, and what is wrong with others.
#[derive(Default)]
pub struct Xattrs {
    pub good: Vec<(Vec<u8>, Vec<u8>)>,
    pub wrong: Vec<(Severity, String)>,
}

/// Every entry of a directory.
fn list(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut entries = Vec::new();
    let mut buf = Vec::with_capacity(64 * 1024);
    backing::list_dir(dir, 0, &mut buf, |entry| {
        if entry.name != b"." && entry.name != b".." {
            entries.push(entry.name.to_vec());
        }
        true
    })?;
    Ok(entries)
}

/// Says in words what a stored file's first page lacks.
pub fn head_trouble(e: &ContentError) -> (Severity, Kind) {
    match e {
        ContentError::Short => (Severity::Damage, Kind::Short),
        ContentError::Backing(_) => (Severity::Damage, Kind::ReadError),
        _ => (Severity::Damage, Kind::Header),
    }
}
