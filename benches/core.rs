//! Names, the cache of keys, slots, and the file system core without FUSE over a directory in memory: what a request
//! costs above the cipher and below the kernel.
//!
//! `cargo bench --bench core`; the directory is made in `/dev/shm` (tmpfs), where syncs cost nothing but their system
//! call, or in the system's place for temporary files if there is none.

use std::hint::black_box;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kmsfs::backing;
use kmsfs::content::Volume;
use kmsfs::crypto::secret::SecretBytes;
use kmsfs::crypto::{Suite, random};
use kmsfs::durable::{Durability, Redo, Sessions};
use kmsfs::format::DIR_MARKER;
use kmsfs::format::block::{Kind, Meta, Slot, Version};
use kmsfs::format::derived::VolumeKeys;
use kmsfs::format::layout::{BLOCK_LEN, SLOT_LEN};
use kmsfs::format::volume::NameMode;
use kmsfs::fs::file_ops::WriteHow;
use kmsfs::fs::{Caller, Fs, FsError, FsOptions, ROOT, Ready, SetAttr};
use kmsfs::keys::{Keys, KeysConfig};
use kmsfs::kms::{BoxFuture, GeneratedKey, KeyDescription, KeySpec, Kms, KmsError, WrappedKey};
use kmsfs::names::Names;

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::Sm4Gcm];
const NAME_MAX: usize = 255;
const MIB: usize = 1 << 20;
/// Of the large file.
const FILE_LEN: usize = 32 * MIB;
const SMALL_LEN: usize = 1024;
const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
});

fn volume_keys(suite: Suite) -> VolumeKeys {
    VolumeKeys::derive(suite, [1; 16], &SecretBytes::copy_of(&[7; 32][..suite.key_len()]).expect("fits"))
}

fn names(c: &mut Criterion) {
    let mut group = c.benchmark_group("names");
    let dir = [3; 16];
    for suite in SUITES {
        let keys = volume_keys(suite);
        let names = Names { mode: NameMode::Encrypted, name_max: NAME_MAX, keys: &keys };
        for len in [8, 31, 255] {
            let name = vec![b'n'; len];
            let stored = names.store(&dir, &name).expect("a name");
            let (entry, whole) = match &stored {
                kmsfs::names::StoredName::Short(whole) => (whole, whole),
                kmsfs::names::StoredName::Long { entry, whole, .. } => (entry, whole),
            };
            group.bench_function(BenchmarkId::new(format!("store {suite}"), len), |b| {
                b.iter(|| names.store(&dir, black_box(&name)).expect("a name"));
            });
            group.bench_function(BenchmarkId::new(format!("reveal {suite}"), len), |b| {
                b.iter(|| names.reveal(&dir, entry, black_box(whole)).expect("it was stored here"));
            });
        }
    }
    group.finish();
}

/// A KMS that answers at once, and whose answers follow from the wrapped key.
struct InstantKms;

impl Kms for InstantKms {
    fn generate_data_key<'a>(
        &'a self,
        key_id: &'a str,
        spec: KeySpec,
    ) -> BoxFuture<'a, Result<GeneratedKey, KmsError>> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let wrapped = wrapped(key_id, NUMBER.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move { Ok(GeneratedKey { plaintext: plaintext(&wrapped.blob, spec.data_key_len()), wrapped }) })
    }

    fn decrypt<'a>(&'a self, wrapped: &'a WrappedKey, len: usize) -> BoxFuture<'a, Result<SecretBytes, KmsError>> {
        Box::pin(async move { Ok(plaintext(&wrapped.blob, len)) })
    }

    fn re_encrypt<'a>(&'a self, _: &'a WrappedKey, _: &'a str) -> BoxFuture<'a, Result<WrappedKey, KmsError>> {
        unreachable!("the file system never re-encrypts")
    }

    fn describe_key<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<KeyDescription, KmsError>> {
        unreachable!("the file system never describes")
    }

    fn create_key(&self, _: KeySpec) -> BoxFuture<'_, Result<String, KmsError>> {
        unreachable!("the file system never creates KMS keys")
    }
}

/// As long as those of the real service.
fn wrapped(key_id: &str, number: u64) -> WrappedKey {
    WrappedKey { key_id: key_id.to_owned(), key_version: "v1".to_owned(), blob: format!("{number:0160}") }
}

fn plaintext(blob: &str, len: usize) -> SecretBytes {
    SecretBytes::copy_of(&blob.as_bytes()[blob.len() - len..]).expect("a data key is a short secret")
}

fn keys_with(suite: Suite, capacity: usize) -> Arc<Keys> {
    let spec = if suite == Suite::Aes256Gcm { KeySpec::Aes256 } else { KeySpec::Sm4_128 };
    let mut config = KeysConfig::new("241ede22-6261-4617-9caf-10d89990516c", spec);
    config.capacity = capacity;
    (config.key_ttl, config.idle_ttl) = (Duration::from_secs(86400), Duration::from_secs(86400));
    Keys::new(Arc::new(InstantKms), config, RUNTIME.handle().clone())
}

/// Calls `one` so often in each of `threads` at the same time; gives how long that took.
fn in_threads(threads: usize, iters: u64, one: impl Fn(usize, u64) + Sync) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let one = &one;
            scope.spawn(move || (0..iters).for_each(|i| one(thread, i)));
        }
    });
    start.elapsed()
}

/// Each figure is the time of one call in each thread.
fn key_cache(c: &mut Criterion) {
    const CAPACITY: usize = 1000;
    let mut group = c.benchmark_group("key cache");
    let (keys, small) = (keys_with(Suite::Aes256Gcm, CAPACITY), keys_with(Suite::Aes256Gcm, 64));
    let known: Vec<WrappedKey> =
        (0..CAPACITY as u64).map(|number| wrapped("241ede22-6261-4617-9caf-10d89990516c", number)).collect();
    for key in &known {
        RUNTIME.block_on(keys.fetch(key)).expect("it answers");
    }
    let unknown = wrapped("241ede22-6261-4617-9caf-10d89990516c", CAPACITY as u64);
    for threads in [1, 2] {
        // Each thread has its own share of the keys: what meets is the lock.
        let share = CAPACITY / threads;
        let pick = |thread: usize, i: u64| &known[thread * share + i as usize % share];
        group.bench_function(BenchmarkId::new("hit, threads", threads), |b| {
            b.iter_custom(|iters| {
                in_threads(threads, iters, |thread, i| {
                    black_box(keys.cached(pick(thread, i)).expect("it is there"));
                })
            });
        });
        group.bench_function(BenchmarkId::new("miss without a call, threads", threads), |b| {
            b.iter_custom(|iters| in_threads(threads, iters, |_, _| assert!(keys.cached(&unknown).is_none())));
        });
        // More keys than room, in turn: each one is asked for, put in, and drives another out.
        group.bench_function(BenchmarkId::new("miss, call, insert, evict, threads", threads), |b| {
            b.iter_custom(|iters| {
                in_threads(threads, iters, |thread, i| {
                    RUNTIME.handle().block_on(small.fetch(pick(thread, i))).expect("it answers");
                })
            });
        });
    }
    group.finish();
}

fn slots(c: &mut Criterion) {
    let mut group = c.benchmark_group("slots");
    group.throughput(Throughput::Elements((BLOCK_LEN / SLOT_LEN) as u64));
    let version =
        |seq| Version { nonce: random::bytes(), tag: random::bytes(), meta: Meta { epoch: 0, kind: Kind::Data, seq } };
    let mut page = vec![0; BLOCK_LEN];
    let versions: Vec<Version> = (0..(2 * BLOCK_LEN / SLOT_LEN)).map(|i| version(i as u8)).collect();
    group.bench_function("write a page", |b| {
        b.iter(|| {
            for (bytes, version) in page.chunks_exact_mut(SLOT_LEN / 2).zip(&versions) {
                bytes.copy_from_slice(&version.to_bytes());
            }
            black_box(&page);
        });
    });
    group.bench_function("read a page", |b| {
        b.iter(|| {
            for bytes in page.chunks_exact(SLOT_LEN) {
                black_box(Slot::from_bytes(black_box(bytes)).shape());
            }
        });
    });
    group.finish();
}

/// A volume with encrypted names, mounted without FUSE.
struct Mounted {
    fs: Fs,
    _dir: tempfile::TempDir,
}

impl Mounted {
    fn new(suite: Suite, durability: Durability) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = dir.expect("a directory for the backing");
        let root = backing::open_root(dir.path()).expect("opens");
        let volume_keys = volume_keys(suite);
        Sessions::create(root.as_fd(), &volume_keys.state).expect("writes");
        let (_, marker) = Names { mode: NameMode::Encrypted, name_max: NAME_MAX, keys: &volume_keys }.new_marker();
        backing::symlink(&marker, root.as_fd(), DIR_MARKER.as_bytes()).expect("links");
        let sessions = Sessions::open(root.as_fd(), volume_keys.state.clone(), false).expect("opens");
        let redo = Redo::new(root.as_fd(), sessions.crashed()).expect("a descriptor");
        sessions.begin().expect("begins");
        let volume = Arc::new(Volume { keys: volume_keys, sessions, redo, durability });
        let options = FsOptions { read_only: false, change_owner: false, fetch_ahead: false };
        let keys = keys_with(suite, 10_000);
        let fs = Fs::new(volume, NameMode::Encrypted, NAME_MAX, keys, root, options).expect("mounts");
        Self { fs, _dir: dir }
    }

    /// Gives inode and handle.
    fn create(&self, name: &[u8]) -> (u64, u64) {
        let (entry, handle) = self.fs.create(&CALLER, ROOT, name, 0o644).expect("creates");
        (entry.attr.ino, handle)
    }

    fn write(&self, handle: u64, off: usize, data: &[u8]) {
        self.with_key(|ready| self.fs.write(handle, off as u64, data, WriteHow::default(), ready));
    }

    fn read(&self, handle: u64, off: usize, len: usize) {
        self.fs.read(handle, off as u64, len, |read| assert_eq!(read.expect("reads").len(), len));
    }

    /// Calls an operation again with the key that it waits for.
    fn with_key<T>(&self, call: impl Fn(Option<&Ready>) -> Result<T, FsError>) -> T {
        let mut ready = None;
        loop {
            match call(ready.as_ref()) {
                Err(FsError::Wait(wait)) => ready = Some(RUNTIME.block_on(self.fs.wait(wait)).expect("it answers")),
                other => return other.expect("the operation succeeds"),
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.fs.end();
    }
}

/// A file written from its beginning, and read, by requests of 1 MiB.
fn sequential(c: &mut Criterion) {
    let mut group = c.benchmark_group("core, sequential 1 MiB");
    group.throughput(Throughput::Bytes(MIB as u64));
    let data = vec![0x5a; MIB];
    for suite in SUITES {
        let mounted = Mounted::new(suite, Durability::Safe);
        let (ino, handle) = mounted.create(b"file");
        group.bench_function(BenchmarkId::new("write", suite), |b| {
            b.iter_custom(|iters| {
                let (mut took, mut off) = (Duration::ZERO, FILE_LEN);
                for _ in 0..iters {
                    if off == FILE_LEN {
                        let empty = SetAttr { size: Some(0), ..SetAttr::default() };
                        mounted.with_key(|ready| mounted.fs.setattr(&CALLER, ino, &empty, ready));
                        off = 0;
                    }
                    let start = Instant::now();
                    mounted.write(handle, off, &data);
                    took += start.elapsed();
                    off += MIB;
                }
                took
            });
        });
        (0..FILE_LEN).step_by(MIB).for_each(|off| mounted.write(handle, off, &data));
        group.bench_function(BenchmarkId::new("read", suite), |b| {
            let mut offs = (0..FILE_LEN).step_by(MIB).cycle();
            b.iter(|| mounted.read(handle, offs.next().expect("for ever"), MIB));
        });
        mounted.fs.release(handle).expect("closes");
    }
    group.finish();
}

/// Blocks of 4 KiB of a durable file of 32 MiB, in random order.
fn random_blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("core, random 4 KiB");
    group.throughput(Throughput::Bytes(BLOCK_LEN as u64));
    let block = vec![0xa5; BLOCK_LEN];
    let any = || u32::from_le_bytes(random::bytes()) as usize % (FILE_LEN / BLOCK_LEN) * BLOCK_LEN;
    // Drawn beforehand: a draw is a system call.
    let offs: Vec<usize> = (0..65_536).map(|_| any()).collect();
    for suite in SUITES {
        for (durability, name) in [(Durability::Fast, "fast"), (Durability::Safe, "safe")] {
            let mounted = Mounted::new(suite, durability);
            let (_, handle) = mounted.create(b"file");
            let data = vec![0x5a; MIB];
            (0..FILE_LEN).step_by(MIB).for_each(|off| mounted.write(handle, off, &data));
            mounted.fs.fsync(handle).expect("syncs");
            let mut offs = offs.iter().cycle();
            group.bench_function(BenchmarkId::new(format!("read {name}"), suite), |b| {
                b.iter(|| mounted.read(handle, *offs.next().expect("for ever"), BLOCK_LEN));
            });
            group.bench_function(BenchmarkId::new(format!("overwrite {name}"), suite), |b| {
                b.iter(|| mounted.write(handle, *offs.next().expect("for ever"), &block));
            });
            mounted.fs.fsync(handle).expect("syncs");
            group.bench_function(BenchmarkId::new(format!("overwrite and fsync {name}"), suite), |b| {
                b.iter(|| {
                    mounted.write(handle, *offs.next().expect("for ever"), &block);
                    mounted.fs.fsync(handle).expect("syncs");
                });
            });
            mounted.fs.release(handle).expect("closes");
        }
    }
    group.finish();
}

/// Files of 1 KiB, whose keys the cache has.
fn small_files(c: &mut Criterion) {
    const FILES: usize = 500;
    let mut group = c.benchmark_group("core, files of 1 KiB");
    let data = vec![0x5a; SMALL_LEN];
    for suite in SUITES {
        let mounted = Mounted::new(suite, Durability::Safe);
        let fs = &mounted.fs;
        let names: Vec<String> = (0..FILES).map(|i| format!("a-file-of-usual-name-{i}.txt")).collect();
        let write_new = |name: &str| {
            let (ino, handle) = mounted.create(name.as_bytes());
            mounted.write(handle, 0, &data);
            fs.release(handle).expect("closes");
            ino
        };
        let inodes: Vec<u64> = names.iter().map(|name| write_new(name)).collect();
        let read_all = |ino: u64| {
            let handle = mounted.with_key(|ready| fs.open(ino, false, ready));
            mounted.read(handle, 0, SMALL_LEN);
            fs.release(handle).expect("closes");
        };
        let mut cycle = inodes.iter().cycle();
        group.bench_function(BenchmarkId::new("open, read, close", suite), |b| {
            b.iter(|| read_all(*cycle.next().expect("for ever")));
        });
        let mut cycle = names.iter().cycle();
        group.bench_function(BenchmarkId::new("look up and forget", suite), |b| {
            b.iter(|| {
                let entry = fs.lookup(ROOT, cycle.next().expect("for ever").as_bytes()).expect("it is there");
                fs.forget(entry.attr.ino, 1);
            });
        });
        group.bench_function(BenchmarkId::new("create, write, close, unlink", suite), |b| {
            b.iter(|| {
                let ino = write_new("another");
                fs.unlink(ROOT, b"another").expect("it is there");
                fs.forget(ino, 1);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, names, key_cache, slots, sequential, random_blocks, small_files);
criterion_main!(benches);
