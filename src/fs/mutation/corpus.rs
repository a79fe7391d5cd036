//! The volumes that are changed: what each holds, and an older state of it.

use std::collections::{BTreeMap, BTreeSet};

use tempfile::TempDir;

use crate::format::VOLUME_FILE;
use crate::format::volume::{PROVIDER, Volume, VolumeKms, VolumeWrapping};
use crate::fs::power_cut::Volume as _;
use crate::fs::power_cut::rig::{self, Rig, Setup};

use super::seen::{Path8, Seen, Wanted, look};
use super::store;

const KIB: usize = 1024;
const GIB: u64 = 1 << 30;
/// What the long names are made of: stored under a hash where names are encrypted.
const LONG: usize = 200;

/// A volume as it lies in its backing directory, and as it was some time before.
pub struct Corpus {
    pub name: &'static str,
    pub setup: Setup,
    pub dir: TempDir,
    pub now: Seen,
    pub older_dir: TempDir,
    /// What was to be seen at earlier times, that of `older_dir` first.
    pub history: Vec<Seen>,
    /// A mount of it did not end.
    pub crashed: bool,
    pub blocks: BTreeMap<Path8, Vec<u64>>,
}

impl Corpus {
    /// All paths that name what lies at `path`, hard links included.
    pub fn names_of(&self, path: &[u8]) -> BTreeSet<Path8> {
        let ino = |path: &[u8]| {
            use std::os::unix::fs::MetadataExt;
            let stored = self.now.stored.get(path)?;
            std::fs::symlink_metadata(self.dir.path().join(stored)).ok().map(|meta| meta.ino())
        };
        let of = ino(path);
        let mut names: BTreeSet<Path8> =
            self.now.objects.keys().filter(|other| of.is_some() && ino(other) == of).cloned().collect();
        names.insert(path.to_vec());
        names
    }
}

/// Bytes that tell where they are from.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = crate::fs::power_cut::Random(seed);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend(random.next().to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Makes a volume by `first`, remembers how that was, and goes on with `then`.
fn build(
    name: &'static str,
    setup: &Setup,
    crash: bool,
    blocks: BTreeMap<Path8, Vec<u64>>,
    first: impl FnOnce(&mut Rig),
    then: impl FnOnce(&mut Rig, &mut dyn FnMut(&Rig)),
) -> Corpus {
    let mut rig = Rig::new(setup);
    write_volume_file(&rig, setup);
    let copy = |rig: &Rig| {
        let dir = rig::fresh_dir();
        store::copy_tree(rig.path(), dir.path());
        dir
    };
    let seen = |dir: &TempDir| {
        let wanted = Wanted { known: &Seen::default(), read: None, blocks: &blocks, read_only: true };
        look(dir.path(), &wanted).expect("a whole volume is mounted")
    };
    first(&mut rig);
    rig.remount();
    let older_dir = copy(&rig);
    let mut history = vec![seen(&older_dir)];
    then(&mut rig, &mut |rig| history.push(seen(&copy(rig))));
    if !crash {
        rig.remount();
    }
    let dir = copy(&rig);
    if !crash {
        // The copy was made under a mount: its session ends here.
        crate::fs::mutation::seen::mount(dir.path(), false)
            .map(|fs| fs.volume().sessions.end_all(&fs.volume().redo))
            .expect("mounts")
            .expect("ends");
    }
    let now = seen(&dir);
    let corpus = Corpus { name, setup: setup.clone(), dir, now, older_dir, history, crashed: crash, blocks };
    assert_sound(&corpus);
    corpus
}

pub fn write_volume_file(rig: &Rig, setup: &Setup) {
    let keys = rig::volume_keys(setup.suite);
    let volume = Volume {
        id: rig::VOLUME_ID,
        suite: setup.suite,
        names: setup.names,
        name_max: 255,
        kms: VolumeKms { provider: PROVIDER.into(), key_id: "cmk".into() },
        files_per_data_key: setup.files_per_data_key,
        wrappings: vec![VolumeWrapping {
            provider: PROVIDER.into(),
            key_id: "cmk".into(),
            key_version: "v".into(),
            blob: rig::VOLUME_BLOB.into(),
        }],
    };
    std::fs::write(rig.path().join(VOLUME_FILE), volume.to_bytes(&keys.volume)).expect("writes");
}

/// A file of `len` bytes; `blocks` tell where they are.
fn file(rig: &mut Rig, path: &str, len: usize) {
    let seed = path.bytes().fold(len as u64, |a, b| a.wrapping_mul(31).wrapping_add(b.into()));
    rig.create(path).expect("creates");
    if len > 0 {
        rig.write(path, 0, &pattern(seed, len)).expect("writes");
    }
    rig.close(path).expect("closes");
}

fn write(rig: &mut Rig, path: &str, off: u64, len: usize) {
    rig.write(path, off, &pattern(off + 77, len)).expect("writes");
}

pub fn target(len: usize) -> String {
    "somewhere/".chars().cycle().take(len).collect()
}

/// The sizes round each edge of the layout: block, head page, first group.
const SIZES: [usize; 9] = [0, 1, 4095, 4096, 4097, 30 * 4 * KIB, 30 * 4 * KIB + 1, 64 * 4 * KIB, 64 * 4 * KIB + 1];

fn tree(rig: &mut Rig) {
    for size in SIZES {
        file(rig, &format!("size{size}"), size);
    }
    rig.mkdir("dir").expect("makes");
    rig.mkdir("dir/inner").expect("makes");
    rig.mkdir("other").expect("makes");
    rig.mkdir("empty").expect("makes");
    file(rig, "dir/a", 6000);
    file(rig, "dir/b", 6000);
    file(rig, "dir/inner/c", 50);
    file(rig, "rewrapped", 9000);
    file(rig, "other/a", 6000);
    file(rig, &"l".repeat(LONG), 300);
    file(rig, &format!("dir/{}", "m".repeat(LONG)), 300);
    file(rig, &format!("dir/{}", "n".repeat(LONG)), 300);
    rig.link("dir/a", "other/linked").expect("links");
    rig.symlink("short", "dir/a").expect("links");
    rig.symlink("dir/short", "other/a").expect("links");
    rig.symlink("two parts", &target(3500)).expect("links");
    rig.symlink("dir/two parts", &target(4000)).expect("links");
    for (path, name, value) in [
        ("dir/a", "user.one", "1"),
        ("dir/a", "user.two", "a longer value of an attribute"),
        ("dir/b", "user.one", "of b"),
        ("dir", "user.one", "of a directory"),
    ] {
        rig.set_xattr(path, name, value.as_bytes()).expect("sets");
    }
    // Sparse: a group skipped whole, marks in the head page, and a second region.
    rig.create("sparse").expect("creates");
    write(rig, "sparse", 5 * 4096, 100);
    write(rig, "sparse", 200 * 4096, 5000);
    rig.close("sparse").expect("closes");
    rig.create("regions").expect("creates");
    write(rig, "regions", 0, 10);
    write(rig, "regions", 400 * 4096, 10);
    write(rig, "regions", GIB + 100 * 4096, 10);
    rig.close("regions").expect("closes");
}

fn later(rig: &mut Rig) {
    // Generation 2. Who puts the older header back brings the older wrapping of the same key.
    rig.rewrap("rewrapped").expect("re-wraps");
    // Slots with two versions, one newer length and one older.
    write(rig, "size4097", 0, 4097);
    write(rig, "size262145", 100, 9000);
    write(rig, "size4096", 4096, 3000);
    rig.set_len("size122881", 122_000).expect("cuts");
    write(rig, "dir/a", 0, 6000);
    write(rig, "sparse", 100 * 4096, 4096);
    rig.punch("size262144", 40 * 4096, 8192).expect("punches");
    rig.set_xattr("dir/a", "user.one", b"2").expect("sets");
    rig.remove("short").expect("removes");
    rig.symlink("short", "dir/b").expect("links");
    file(rig, "new", 100);
    rig.remove("other/a").expect("removes");
    file(rig, "other/a", 5000);
}

fn regions_blocks() -> BTreeMap<Path8, Vec<u64>> {
    let region = GIB / 4096;
    let blocks = vec![0, 1, 29, 30, 63, 64, 399, 400, 401, region - 1, region, region + 29, region + 30, region + 100];
    BTreeMap::from([(b"regions".to_vec(), blocks)])
}

/// Everything that a volume may hold.
pub fn full(name: &'static str, setup: &Setup) -> Corpus {
    build(name, setup, false, regions_blocks(), tree, |rig, _| later(rig))
}

/// As a daemon leaves it that died: overwritten blocks wait in the redo file, slots have two versions, ends are not
/// synced.
pub fn crashed(name: &'static str, setup: &Setup) -> Corpus {
    build(name, setup, true, regions_blocks(), tree, |rig, note| {
        for path in ["size4097", "size262145", "dir/a", "sparse"] {
            rig.fsync(path).expect("syncs");
        }
        later(rig);
        // Synced, and then changed again: both versions of a block were promised at some time.
        note(rig);
        for path in ["size262145", "dir/a"] {
            rig.fsync(path).expect("syncs");
            rig.write(path, 50, &pattern(5, 4500)).expect("writes");
        }
        rig.write("new", 100, &pattern(6, 30_000)).expect("writes");
        assert!(store::redo_files(rig.path()).len() == 1, "a redo file is what this is about");
    })
}

/// A few small files, for changes of each byte.
pub fn small(name: &'static str, setup: &Setup) -> Corpus {
    let first = |rig: &mut Rig| {
        file(rig, "two", 9000);
        file(rig, "other", 100);
        rig.create("sparse").expect("creates");
        write(rig, "sparse", 3 * 4096, 100);
        write(rig, "sparse", 70 * 4096, 10);
        write(rig, "sparse", 140 * 4096, 10);
        rig.close("sparse").expect("closes");
        file(rig, "groups", 34 * 4096);
    };
    build(name, setup, false, BTreeMap::new(), first, |rig, _| {
        write(rig, "two", 0, 9000);
        write(rig, "groups", 0, 34 * 4096);
        write(rig, "sparse", 3 * 4096, 100);
    })
}

/// That the volume is what it is meant to be: no error in it, but what was written.
fn assert_sound(corpus: &Corpus) {
    use super::seen::Body;
    for (path, object) in &corpus.now.objects {
        let shown = String::from_utf8_lossy(path);
        let sound = match &object.body {
            Body::Dir(listed) => listed.is_ok(),
            Body::Link(target) => target.is_ok(),
            Body::File(Ok(content)) => content.blocks.values().all(Result::is_ok) && content.size == object.size,
            _ => false,
        };
        assert!(sound && object.listed && object.kind.is_ok(), "{}: {shown}: {object:?}", corpus.name);
        assert!(object.xattrs.values().all(Result::is_ok), "{shown}");
    }
}
