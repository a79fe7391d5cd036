//! Seal and open by size and suite, names, and content over a file: where the time of a request goes.
//!
//! `cargo bench --bench engines`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kmsfs::crypto::Suite;
use kmsfs::crypto::aead::{AeadKey, Engine};
use kmsfs::crypto::secret::SecretBytes;
use kmsfs::crypto::sm4::Kernel;
use kmsfs::format::block::{Kind, Meta, Nonces, open_block, seal_block};
use kmsfs::format::derived::{FileKeys, VolumeKeys};
use kmsfs::format::volume::NameMode;
use kmsfs::names::Names;

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::Sm4Gcm];

fn key(suite: Suite) -> SecretBytes {
    SecretBytes::copy_of(&[7; 32][..suite.key_len()]).expect("a cipher key is a short secret")
}

fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("block");
    group.throughput(Throughput::Bytes(4096));
    for suite in SUITES {
        let aead = AeadKey::new(suite, Engine::default_for(suite), &key(suite));
        let meta = Meta { epoch: 0, kind: Kind::Data, seq: 0 };
        let mut page = vec![0; 4096];
        group.bench_function(BenchmarkId::new("seal", suite), |b| {
            let mut nonces = Nonces::for_request();
            b.iter(|| seal_block(&aead, 1, meta, &mut nonces, &mut page));
        });
        let mut sealed = vec![0; 4096];
        let version = seal_block(&aead, 1, meta, &mut Nonces::for_request(), &mut sealed);
        group.bench_function(BenchmarkId::new("open", suite), |b| {
            b.iter(|| {
                page.copy_from_slice(&sealed);
                open_block(&aead, 1, &version, &mut page).expect("it was sealed here");
            });
        });
    }
    group.finish();
}

/// Every engine of a suite: all kernels that the processor has.
fn engines(c: &mut Criterion) {
    let sm4 = Kernel::available().map(|kernel| (Suite::Sm4Gcm, Engine::Sm4(kernel), kernel.name()));
    let others = [
        (Suite::Aes256Gcm, Engine::Ring, "ring"),
        (Suite::Aes256Gcm, Engine::Portable, "crates"),
        (Suite::Sm4Gcm, Engine::Portable, "crates"),
    ];
    for (suite, engine, name) in sm4.chain(others) {
        let mut group = c.benchmark_group(format!("{suite} {name}"));
        let aead = AeadKey::new(suite, engine, &key(suite));
        for len in [512, 4096, 65536] {
            group.throughput(Throughput::Bytes(len as u64));
            let mut data = vec![0; len];
            group.bench_function(BenchmarkId::new("seal", len), |b| {
                b.iter(|| aead.seal(&[1; 12], &[2; 32], &mut data));
            });
            let mut sealed = vec![0; len];
            let tag = aead.seal(&[1; 12], &[2; 32], &mut sealed);
            group.bench_function(BenchmarkId::new("open", len), |b| {
                b.iter(|| {
                    data.copy_from_slice(&sealed);
                    aead.open(&[1; 12], &[2; 32], &tag, &mut data).expect("it was sealed here");
                });
            });
        }
        group.finish();
    }
}

fn keys(c: &mut Criterion) {
    let mut group = c.benchmark_group("keys");
    for suite in SUITES {
        let data_key = key(suite);
        group.bench_function(BenchmarkId::new("open a file's keys", suite), |b| {
            b.iter(|| FileKeys::derive(suite, [1; 16], [2; 16], &data_key).block_key(0));
        });
        let volume = VolumeKeys::derive(suite, [1; 16], &key(suite));
        let names = Names { mode: NameMode::Encrypted, name_max: 255, keys: &volume };
        group.bench_function(BenchmarkId::new("store a name", suite), |b| {
            b.iter(|| names.store(&[3; 16], b"a-file-name-of-usual-length.txt").expect("a name"));
        });
    }
    group.bench_function("nonces for a request", |b| b.iter(Nonces::for_request));
    group.finish();
}

criterion_group!(benches, blocks, engines, keys);
criterion_main!(benches);
