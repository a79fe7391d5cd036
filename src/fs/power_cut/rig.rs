//! The file system core on a directory, called by paths.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{FileType, RenameFlags};

use crate::backing::{self, tap};
use crate::command::check::report::Report;
use crate::command::check::{self, How, Unlocked};
use crate::content::examine::{Depth, Head};
use crate::content::{ContentError, Volume, rewrap};
use crate::crypto::Suite;
use crate::crypto::secret::SecretBytes;
use crate::durable::{Durability, Redo, Sessions};
use crate::format::DIR_MARKER;
use crate::format::derived::{VolumeId, VolumeKeys};
use crate::format::file_header::{HeaderError, PROVIDER_CTYUN, Wrapping};
use crate::format::volume::NameMode;
use crate::fs::file_ops::{Allocate, WriteHow};
use crate::fs::open_files::usable_wrappings;
use crate::fs::{Caller, Fs, FsError, FsOptions, ROOT, Ready, Result, SetAttr};
use crate::keys::{Keys, KeysConfig};
use crate::kms::{BoxFuture, GeneratedKey, KeyDescription, KeySpec, Kms, KmsError, WrappedKey};
use crate::names::Names;

use super::{Found, FoundObject, Seen};

/// A KMS that answers at once, and whose answers follow from the wrapped key.
struct InstantKms;

impl Kms for InstantKms {
    fn generate_data_key<'a>(
        &'a self,
        key_id: &'a str,
        spec: KeySpec,
    ) -> BoxFuture<'a, std::result::Result<GeneratedKey, KmsError>> {
        Box::pin(async move {
            let blob = crate::format::volume::hex(&crate::crypto::random::bytes::<8>());
            let wrapped = WrappedKey { key_id: key_id.into(), key_version: "v".into(), blob };
            Ok(GeneratedKey { plaintext: plaintext(&wrapped.blob, spec.data_key_len()), wrapped })
        })
    }

    fn decrypt<'a>(
        &'a self,
        wrapped: &'a WrappedKey,
        len: usize,
    ) -> BoxFuture<'a, std::result::Result<SecretBytes, KmsError>> {
        Box::pin(async move { Ok(plaintext(&wrapped.blob, len)) })
    }

    fn re_encrypt<'a>(
        &'a self,
        old: &'a WrappedKey,
        _: &'a str,
    ) -> BoxFuture<'a, std::result::Result<WrappedKey, KmsError>> {
        Box::pin(async move { Ok(rewrapped(old)) })
    }

    fn describe_key<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::result::Result<KeyDescription, KmsError>> {
        unreachable!("the file system never describes")
    }

    fn create_key(&self, _: KeySpec) -> BoxFuture<'_, std::result::Result<String, KmsError>> {
        unreachable!("the file system never creates KMS keys")
    }
}

/// Another wrapping of the same key: what is behind a `+` tells them apart.
fn rewrapped(old: &WrappedKey) -> WrappedKey {
    WrappedKey { key_version: format!("{}+", old.key_version), blob: format!("{}+", old.blob), ..old.clone() }
}

/// The data key that [`InstantKms`] takes a wrapped one for.
pub fn plaintext(blob: &str, len: usize) -> SecretBytes {
    let bytes: Vec<u8> = blob.trim_end_matches('+').bytes().cycle().take(len).collect();
    SecretBytes::copy_of(&bytes).expect("fits")
}

pub static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
});

pub fn runtime() -> tokio::runtime::Handle {
    RUNTIME.handle().clone()
}

/// One cache for all mounts with a suite and a number of files per data key: the keys of a volume are asked for once.
pub fn keys(suite: Suite, files_per_data_key: u32) -> Arc<Keys> {
    type Caches = HashMap<(&'static str, u32), Arc<Keys>>;
    static KEYS: LazyLock<Mutex<Caches>> = LazyLock::new(Mutex::default);
    let make = || new_keys(suite, files_per_data_key);
    KEYS.lock().entry((suite.name(), files_per_data_key)).or_insert_with(make).clone()
}

/// A cache of its own, with no key in it.
pub fn new_keys(suite: Suite, files_per_data_key: u32) -> Arc<Keys> {
    let spec = if suite == Suite::Aes256Gcm { KeySpec::Aes256 } else { KeySpec::Sm4_128 };
    let mut config = KeysConfig::new("cmk", spec);
    config.key_ttl = Duration::from_secs(3600);
    config.idle_ttl = Duration::from_secs(3600);
    config.files_per_data_key = files_per_data_key;
    Keys::new(Arc::new(InstantKms), config, runtime())
}

/// How the volume is made and mounted.
#[derive(Clone)]
pub struct Setup {
    pub names: NameMode,
    pub durability: Durability,
    pub suite: Suite,
    pub files_per_data_key: u32,
}

impl Setup {
    pub fn safe() -> Self {
        Self { names: NameMode::Plain, durability: Durability::Safe, suite: Suite::Aes256Gcm, files_per_data_key: 1 }
    }

    pub fn encrypted_names() -> Self {
        Self { names: NameMode::Encrypted, ..Self::safe() }
    }
}

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };

/// In memory, where the system has such a place.
pub fn fresh_dir() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a directory for the test")
}

/// A mounted volume.
pub struct Rig {
    pub setup: Setup,
    dir: tempfile::TempDir,
    fs: Option<Arc<Fs>>,
    open: HashMap<String, u64>,
    before: Vec<tap::Change>,
}

pub const VOLUME_ID: VolumeId = [7; 16];
/// The wrapped VolumeKey.
pub const VOLUME_BLOB: &str = "1";

pub fn volume_keys(suite: Suite) -> VolumeKeys {
    VolumeKeys::derive(suite, VOLUME_ID, &plaintext(VOLUME_BLOB, suite.key_len()))
}

fn open_volume(root: BorrowedFd<'_>, setup: &Setup) -> std::result::Result<Arc<Volume>, String> {
    let keys = volume_keys(setup.suite);
    let sessions = Sessions::open(root, keys.state.clone(), false).map_err(|e| e.to_string())?;
    let redo = Redo::new(root, sessions.crashed()).map_err(|e| e.to_string())?;
    Ok(Arc::new(Volume { keys, sessions, redo, durability: setup.durability }))
}

/// What `kmsfs check` says of a volume that is not mounted, all of it on this thread.
pub fn check(at: &Path, setup: &Setup, repair: bool) -> Report {
    try_check(at, setup, repair).expect("can be checked")
}

/// The same where it may fail as a whole; gives why.
pub fn try_check(at: &Path, setup: &Setup, repair: bool) -> std::result::Result<Report, String> {
    let volume = Unlocked {
        root: backing::open_root(at).map_err(|e| e.to_string())?,
        keys: volume_keys(setup.suite),
        mode: setup.names,
        name_max: 255,
        data_keys: keys(setup.suite, setup.files_per_data_key),
        runtime: runtime(),
    };
    let how = How {
        depth: Depth::Blocks,
        structure: false,
        files_only: false,
        repair,
        live: false,
        progress: false,
        threads: 0,
    };
    check::check(volume, how, None, Report::default()).map_err(|e| format!("{:#}", e.error))
}

/// The same in words, and whether nothing was found.
pub fn check_says(at: &Path, setup: &Setup, repair: bool) -> (bool, String) {
    let report = check(at, setup, repair);
    (report.tally().exit().is_none(), report.text())
}

fn mount(at: &Path, setup: &Setup) -> std::result::Result<Arc<Fs>, String> {
    mount_with(at, setup, keys(setup.suite, setup.files_per_data_key), false)
}

pub fn mount_with(
    at: &Path,
    setup: &Setup,
    file_keys: Arc<Keys>,
    fetch_ahead: bool,
) -> std::result::Result<Arc<Fs>, String> {
    let root = backing::open_root(at).map_err(|e| e.to_string())?;
    let volume = open_volume(root.as_fd(), setup)?;
    volume.sessions.begin().map_err(|e| e.to_string())?;
    let options = FsOptions { read_only: false, change_owner: false, fetch_ahead };
    let fs = Fs::new(volume, setup.names, 255, file_keys, root, options).map_err(|e| e.to_string())?;
    Ok(Arc::new(fs))
}

impl Rig {
    pub fn new(setup: &Setup) -> Self {
        let dir = fresh_dir();
        tap::record();
        let root = backing::open_root(dir.path()).expect("opens");
        let keys = volume_keys(setup.suite);
        Sessions::create(root.as_fd(), &keys.state).expect("writes");
        if setup.names == NameMode::Encrypted {
            let (_, marker) = Names { mode: setup.names, name_max: 255, keys: &keys }.new_marker();
            backing::symlink(&marker, root.as_fd(), DIR_MARKER.as_bytes()).expect("links");
        }
        backing::fsync(root.as_fd()).expect("syncs");
        let fs = mount(dir.path(), setup).expect("mounts");
        Self { setup: setup.clone(), dir, fs: Some(fs), open: HashMap::new(), before: tap::take() }
    }

    /// On what a cut has left: everything that is there is durable.
    pub fn over(dir: tempfile::TempDir, setup: &Setup) -> Self {
        let before = as_changes(dir.path());
        tap::record();
        let fs = mount(dir.path(), setup).expect("mounts");
        let before = before.into_iter().chain(tap::take()).collect();
        Self { setup: setup.clone(), dir, fs: Some(fs), open: HashMap::new(), before }
    }

    pub fn fs(&self) -> &Arc<Fs> {
        self.fs.as_ref().expect("mounted")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A clean end, and another mount.
    pub fn remount(&mut self) {
        let open: Vec<String> = self.open.keys().cloned().collect();
        for path in open {
            self.close(&path).expect("closes");
        }
        self.end_and_mount().expect("mounts");
    }

    /// The end of a mount whose files may be open.
    pub fn end(&mut self) {
        self.open.clear();
        if let Some(fs) = self.fs.take() {
            fs.end();
        }
    }

    /// The end of a mount whose files may be open, and another mount: to be tried again if that fails.
    pub fn end_and_mount(&mut self) -> std::result::Result<(), String> {
        self.end();
        self.fs = Some(mount(self.dir.path(), &self.setup)?);
        Ok(())
    }

    fn parent<'a>(&self, path: &'a str) -> Result<(u64, &'a [u8])> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(dir)?, name.as_bytes()))
    }

    pub fn find(&self, path: &str) -> Result<u64> {
        let mut id = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            id = self.fs().lookup(id, name.as_bytes())?.attr.ino;
        }
        Ok(id)
    }

    /// The handle of a file, opened if need be; it stays open until [`Self::close`].
    fn handle(&mut self, path: &str) -> Result<u64> {
        if let Some(&handle) = self.open.get(path) {
            return Ok(handle);
        }
        let id = self.find(path)?;
        let handle = match with_key(self.fs(), |ready| self.fs().open(id, true, ready)) {
            // As the kernel does: the look-up brings the right size.
            Err(FsError::Stale) => {
                let id = self.find(path)?;
                with_key(self.fs(), |ready| self.fs().open(id, true, ready))?
            }
            other => other?,
        };
        self.open.insert(path.to_owned(), handle);
        Ok(handle)
    }

    pub fn set_len(&mut self, path: &str, len: u64) -> Result<()> {
        self.handle(path)?;
        let id = self.find(path)?;
        let set = SetAttr { size: Some(len), ..SetAttr::default() };
        with_key(self.fs(), |ready| self.fs().setattr(&CALLER, id, &set, ready)).map(drop)
    }

    pub fn punch(&mut self, path: &str, off: u64, len: u64) -> Result<()> {
        let handle = self.handle(path)?;
        with_key(self.fs(), |ready| self.fs().fallocate(handle, off, len, Allocate::Punch, ready))
    }

    pub fn close(&mut self, path: &str) -> Result<()> {
        self.open.remove(path).map_or(Ok(()), |handle| self.fs().release(handle))
    }

    pub fn mkdir(&mut self, path: &str) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        self.fs().mkdir(&CALLER, dir, name, 0o755).map(drop)
    }

    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        self.fs().symlink(&CALLER, dir, name, target.as_bytes()).map(drop)
    }

    pub fn link(&mut self, path: &str, other: &str) -> Result<()> {
        let (id, (dir, name)) = (self.find(path)?, self.parent(other)?);
        self.fs().link(id, dir, name).map(drop)
    }

    pub fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let ((dir, name), (new_dir, new_name)) = (self.parent(from)?, self.parent(to)?);
        self.fs().rename(dir, name, new_dir, new_name, RenameFlags::empty())?;
        let closed = self.close(to);
        if let Some(handle) = self.open.remove(from) {
            self.open.insert(to.to_owned(), handle);
        }
        closed
    }
}

impl Rig {
    /// Has a file that nobody has open re-wrapped, as `kmsfs rotate` does it, or ends that.
    pub fn rewrap(&mut self, path: &str) -> Result<()> {
        let stored = self.fs().stored_path(self.find(path)?);
        let stored = std::fs::File::options().read(true).write(true).open(stored).expect("opens");
        let volume = &self.fs().volume();
        if rewrap::finish(&volume.keys, stored.as_fd())? {
            return Ok(());
        }
        let Some(head) = Head::read(&volume.keys, stored.as_fd())? else { return Ok(()) };
        let (_, header) = head.header().ok_or(ContentError::Header(HeaderError::Magic))?;
        let old = &usable_wrappings(&header.wrappings)?[0];
        let new = rewrapped(old);
        let key = plaintext(&new.blob, volume.keys.suite.key_len());
        let WrappedKey { key_id, key_version, blob } = new;
        let wrapping = Wrapping { provider: PROVIDER_CTYUN, key_id, key_version, blob };
        Ok(rewrap::rewrap(&volume.keys, stored.as_fd(), vec![wrapping], &key)?)
    }

    /// The daemon dies, and another mount begins. Files that are open are lost sight of.
    pub fn kill(&mut self) {
        self.open.clear();
        drop(self.fs.take());
        self.fs = Some(mount(self.dir.path(), &self.setup).expect("mounts"));
    }

    pub fn set_xattr(&mut self, path: &str, name: &str, value: &[u8]) -> Result<()> {
        self.fs().setxattr(self.find(path)?, name.as_bytes(), value, 0)
    }
}

impl super::Volume for Rig {
    fn create(&mut self, path: &str) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        let (_, handle) = self.fs().create(&CALLER, dir, name, libc::S_IFREG | 0o644)?;
        self.open.insert(path.to_owned(), handle);
        Ok(())
    }

    fn write(&mut self, path: &str, off: u64, data: &[u8]) -> Result<()> {
        let handle = self.handle(path)?;
        with_key(self.fs(), |ready| self.fs().write(handle, off, data, WriteHow::default(), ready))
    }

    fn fsync(&mut self, path: &str) -> Result<()> {
        let handle = self.handle(path)?;
        self.fs().fsync(handle)
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        if self.fs().lookup(dir, name)?.attr.kind == FileType::Directory {
            return self.fs().rmdir(dir, name);
        }
        self.fs().unlink(dir, name)?;
        self.close(path)
    }

    fn fsync_dir(&mut self, path: &str) -> Result<()> {
        let handle = self.fs().opendir(self.find(path)?)?;
        let synced = self.fs().fsyncdir(handle);
        self.fs().releasedir(handle)?;
        synced
    }

    fn root_ino(&self) -> u64 {
        ino(self.dir.path())
    }

    fn before(&self) -> Vec<tap::Change> {
        self.before.clone()
    }

    fn setup(&self) -> Setup {
        self.setup.clone()
    }
}

/// Calls an operation again with the key that it waits for.
pub fn with_key<T>(fs: &Fs, call: impl Fn(Option<&Ready>) -> Result<T>) -> Result<T> {
    let mut ready = None;
    loop {
        match call(ready.as_ref()) {
            Err(FsError::Wait(wait)) => ready = Some(RUNTIME.block_on(fs.wait(wait))?),
            other => return other,
        }
    }
}

/// Mounts what lies in `at`, and reads all of it.
pub fn look(at: &Path, setup: &Setup) -> std::result::Result<Found, String> {
    let mut names = BTreeMap::new();
    look_into(&*mount(at, setup)?, ROOT, false, &mut Vec::new(), &mut names)?;
    Ok(Found { names })
}

/// Reads all of what is mounted. Files are open perhaps: their size is what reading them shows.
pub fn look_at(fs: &Fs) -> std::result::Result<Found, String> {
    let mut names = BTreeMap::new();
    look_into(fs, ROOT, true, &mut Vec::new(), &mut names)?;
    Ok(Found { names })
}

pub fn list(fs: &Fs, id: u64) -> Result<Vec<(Vec<u8>, FileType)>> {
    let handle = fs.opendir(id)?;
    let mut out = Vec::new();
    let listed = fs.readdir(handle, 0, |listing| {
        if !matches!(listing.name, b"." | b"..") {
            out.push((listing.name.to_vec(), listing.kind));
        }
        false
    });
    fs.releasedir(handle)?;
    listed.map(|()| out)
}

fn look_into(
    fs: &Fs,
    dir: u64,
    live: bool,
    path: &mut Vec<u8>,
    out: &mut BTreeMap<Vec<u8>, FoundObject>,
) -> std::result::Result<(), String> {
    let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    for (name, kind) in list(fs, dir).map_err(|e| format!("{}: listing: {e}", shown(path)))? {
        let before = path.len();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(&name);
        let entry = fs.lookup(dir, &name).map_err(|e| format!("{}: look-up: {e}", shown(path)))?;
        let id = entry.attr.ino;
        match kind {
            FileType::Directory => {
                out.insert(path.clone(), FoundObject::Dir);
                look_into(fs, id, live, path, out)?;
            }
            FileType::Symlink => {
                let target = fs.readlink(id).map_err(|e| format!("{}: target: {e}", shown(path)))?;
                out.insert(path.clone(), FoundObject::Link(target));
            }
            _ => {
                let seen = read(fs, dir, &name, id, live)?;
                out.insert(path.clone(), FoundObject::File { id, seen });
            }
        }
        path.truncate(before);
    }
    Ok(())
}

/// Every byte of a file, `None` for what cannot be read; `None` if it cannot be opened.
fn read(fs: &Fs, dir: u64, name: &[u8], id: u64, live: bool) -> std::result::Result<Option<Vec<Seen>>, String> {
    let open = |id| with_key(fs, |ready| fs.open(id, false, ready));
    let handle = match open(id) {
        Err(FsError::Stale) => {
            let id = fs.lookup(dir, name).map_err(|e| format!("looked up anew: {e}"))?.attr.ino;
            open(id)
        }
        other => other,
    };
    let Ok(handle) = handle else { return Ok(None) };
    let size = if live { u64::MAX } else { fs.getattr(id).map_err(|e| format!("attributes: {e}"))?.size };
    let mut seen: Vec<Seen> = Vec::new();
    while (seen.len() as u64) < size {
        let off = seen.len() as u64;
        let len = (size - off).min(4096) as usize;
        let block = fs.read(handle, off, len, |bytes| bytes.map(<[u8]>::to_vec));
        match block {
            Ok(bytes) if bytes.is_empty() && live => break,
            Ok(bytes) if bytes.is_empty() => return Err(format!("reading ends at {off} of {size}")),
            Ok(bytes) => seen.extend(bytes.into_iter().map(Some)),
            Err(e) if e.errno() == libc::EIO => seen.extend(std::iter::repeat_n(None, len)),
            Err(e) => return Err(format!("reading at {off}: {e}")),
        }
    }
    fs.release(handle).map_err(|e| format!("closing: {e}"))?;
    Ok(Some(seen))
}

/// Everything in the volume can be removed.
pub fn remove_all(at: &Path, setup: &Setup) -> std::result::Result<(), String> {
    let fs = mount(at, setup)?;
    remove_in(&fs, ROOT).map_err(|e| format!("something cannot be removed: {e}"))?;
    fs.end();
    drop(fs);
    let left: Vec<PathBuf> =
        std::fs::read_dir(at).map_err(|e| e.to_string())?.flatten().map(|entry| entry.path()).collect();
    let own = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ["kmsfs.state", "kmsfs.dir"].contains(&&name[..])
            || name.starts_with("kmsfs.redo.")
            || name.starts_with("kmsfs.tmp.")
            || name.starts_with("kmsfs.long.")
    };
    match left.iter().find(|path| !own(path)) {
        Some(path) => Err(format!("{} is left", path.display())),
        None => Ok(()),
    }
}

fn remove_in(fs: &Fs, dir: u64) -> Result<()> {
    for (name, kind) in list(fs, dir)? {
        if kind == FileType::Directory {
            let id = fs.lookup(dir, &name)?.attr.ino;
            remove_in(fs, id)?;
            fs.rmdir(dir, &name)?;
        } else {
            fs.unlink(dir, &name)?;
        }
    }
    Ok(())
}

pub fn ino(at: &Path) -> u64 {
    std::fs::metadata(at).expect("exists").ino()
}

/// The changes that make what lies in a directory, all durable.
pub fn as_changes(at: &Path) -> Vec<tap::Change> {
    let (mut out, mut seen) = (Vec::new(), HashSet::new());
    changes_in(at, &mut out, &mut seen);
    out.push(tap::Change::SyncAll);
    out
}

fn changes_in(at: &Path, out: &mut Vec<tap::Change>, seen: &mut HashSet<u64>) {
    use std::os::unix::ffi::OsStrExt;
    let dir = ino(at);
    for entry in std::fs::read_dir(at).expect("lists").flatten() {
        let (path, meta) = (entry.path(), entry.metadata().expect("exists"));
        let (name, ino) = (entry.file_name().as_bytes().to_vec(), meta.ino());
        if meta.is_dir() {
            out.push(tap::Change::Mkdir { dir, name, ino });
            changes_in(&path, out, seen);
        } else if !seen.insert(ino) {
            out.push(tap::Change::Link { dir, name, ino });
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&path).expect("reads").as_os_str().as_bytes().to_vec();
            out.push(tap::Change::Symlink { dir, name, ino, target });
        } else {
            let data = std::fs::read(&path).expect("reads");
            out.push(tap::Change::Create { dir, name, ino });
            out.push(tap::Change::Write { ino, off: 0, data });
            out.push(tap::Change::SetLen { ino, len: meta.len() });
        }
    }
}
