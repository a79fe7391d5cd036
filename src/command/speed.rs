//! `kmsfs speed`: how fast this machine's engines seal and open blocks, store names and derive a file's keys. Needs no
//! volume and no key.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::Speed;
use crate::cli::exit_code::Exit;
use crate::crypto::Suite;
use crate::crypto::aead::{self, AeadKey, Engine};
use crate::crypto::random;
use crate::crypto::secret::SecretBytes;
use crate::format::block::{Kind, Meta, Nonces, open_block, seal_block};
use crate::format::derived::{FileKeys, VolumeKeys};
use crate::format::layout::BLOCK_LEN;
use crate::format::volume::NameMode;
use crate::names::Names;

use super::{OrExit, Outcome};

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::Sm4Gcm];
/// Rounds over all measures: what else the machine does meets each of them, and the median leaves it out.
const ROUNDS: u32 = 9;
/// What is done between two looks at the clock; for blocks, those of one request, which share a draw of nonces.
const BATCH: usize = 16;
const NAME: &[u8] = b"a-file-name-of-usual-length.txt";

pub fn run(args: &Speed) -> Outcome {
    for suite in SUITES {
        aead::self_test(suite).or_exit(Exit::Other, "the self-test of the cipher engines failed on this machine")?;
    }
    let mut suites: Vec<SuiteSpeed> = SUITES.into_iter().map(SuiteSpeed::new).collect();
    let measures = suites.iter_mut().flat_map(SuiteSpeed::measures).count() as u32;
    let slice = args.seconds / (ROUNDS * measures);
    for _ in 0..ROUNDS {
        suites.iter_mut().flat_map(SuiteSpeed::measures).for_each(|measure| measure.run(slice));
    }
    if args.json {
        let suites: Vec<_> = suites.iter().map(SuiteSpeed::json).collect();
        println!("{:#}", json!({ "threads": 1, "block_len": BLOCK_LEN, "rounds": ROUNDS, "suites": suites }));
    } else {
        print(&suites);
    }
    Ok(())
}

/// One thing that is done again and again.
struct Measure {
    batch: Box<dyn FnMut()>,
    /// How long one of a batch took, by round.
    took: Vec<Duration>,
}

impl Measure {
    fn new(batch: impl FnMut() + 'static) -> Self {
        Self { batch: Box::new(batch), took: Vec::new() }
    }

    /// The first batch is not counted: it brings back into the caches what the measure before has driven out.
    fn run(&mut self, slice: Duration) {
        (self.batch)();
        let start = Instant::now();
        let mut batches = 0;
        loop {
            (self.batch)();
            batches += 1;
            let passed = start.elapsed();
            if passed >= slice {
                self.took.push(Duration::from_secs_f64(passed.as_secs_f64() / f64::from(batches)));
                return;
            }
        }
    }

    /// Microseconds for one, the median of the rounds.
    fn micros(&self) -> f64 {
        let mut took = self.took.clone();
        took.sort_unstable();
        took[took.len() / 2].as_secs_f64() * 1e6 / BATCH as f64
    }

    fn per_second(&self) -> f64 {
        1e6 / self.micros()
    }

    /// MB/s, where one is one block.
    fn megabytes(&self) -> f64 {
        BLOCK_LEN as f64 / self.micros()
    }

    fn block_json(&self) -> serde_json::Value {
        json!({ "mb_per_s": rounded(self.megabytes(), 1.0), "us_per_block": rounded(self.micros(), 1000.0) })
    }
}

struct EngineSpeed {
    engine: Engine,
    seal: Measure,
    open: Measure,
}

struct SuiteSpeed {
    suite: Suite,
    engines: Vec<EngineSpeed>,
    names: Measure,
    file_keys: Measure,
}

impl SuiteSpeed {
    fn new(suite: Suite) -> Self {
        let engines = Engine::available(suite).into_iter().map(|engine| EngineSpeed {
            engine,
            seal: sealing(suite, engine),
            open: opening(suite, engine),
        });
        Self { suite, engines: engines.collect(), names: naming(suite), file_keys: deriving(suite) }
    }

    fn measures(&mut self) -> impl Iterator<Item = &mut Measure> {
        let engines = self.engines.iter_mut().flat_map(|engine| [&mut engine.seal, &mut engine.open]);
        engines.chain([&mut self.names, &mut self.file_keys])
    }

    fn chosen(&self) -> Engine {
        Engine::default_for(self.suite)
    }

    fn json(&self) -> serde_json::Value {
        let engines: Vec<_> = self
            .engines
            .iter()
            .map(|speed| {
                json!({
                    "engine": speed.engine.name(), "chosen": speed.engine == self.chosen(),
                    "seal": speed.seal.block_json(), "open": speed.open.block_json(),
                })
            })
            .collect();
        json!({
            "suite": self.suite.name(), "chosen": self.chosen().name(), "engines": engines,
            "names_per_second": rounded(self.names.per_second(), 1.0),
            "file_keys_per_second": rounded(self.file_keys.per_second(), 1.0),
        })
    }
}

fn print(suites: &[SuiteSpeed]) {
    println!("One thread, blocks of {BLOCK_LEN} bytes; * is what a mount on this machine uses.\n");
    println!("suite        engine          seal MB/s       µs  open MB/s       µs");
    for suite in suites {
        for EngineSpeed { engine, seal, open } in &suite.engines {
            let mark = if *engine == suite.chosen() { '*' } else { ' ' };
            println!(
                "{:<12} {:<12} {mark} {:>10.0} {:>8.2} {:>10.0} {:>8.2}",
                suite.suite.name(),
                engine.name(),
                seal.megabytes(),
                seal.micros(),
                open.megabytes(),
                open.micros(),
            );
        }
    }
    println!("\nsuite          names/s       µs  keys of a file/s       µs");
    for SuiteSpeed { suite, names, file_keys, .. } in suites {
        println!(
            "{:<12} {:>9.0} {:>8.2} {:>17.0} {:>8.2}",
            suite.name(),
            names.per_second(),
            names.micros(),
            file_keys.per_second(),
            file_keys.micros(),
        );
    }
}

fn secret(suite: Suite) -> SecretBytes {
    let mut bytes = [0; 32];
    random::fill(&mut bytes);
    SecretBytes::copy_of(&bytes[..suite.key_len()]).expect("a cipher key is a short secret")
}

const META: Meta = Meta { epoch: 0, kind: Kind::Data, seq: 0 };

/// As a write of [`BATCH`] blocks does it.
fn sealing(suite: Suite, engine: Engine) -> Measure {
    let key = AeadKey::new(suite, engine, &secret(suite));
    let mut data = vec![0; BATCH * BLOCK_LEN];
    Measure::new(move || {
        let mut nonces = Nonces::for_request();
        for (block, page) in (0..).zip(data.chunks_exact_mut(BLOCK_LEN)) {
            black_box(seal_block(&key, block, META, &mut nonces, page));
        }
    })
}

/// As a read of [`BATCH`] blocks does it; a copy stands for what the backing gives.
fn opening(suite: Suite, engine: Engine) -> Measure {
    let key = AeadKey::new(suite, engine, &secret(suite));
    let mut stored = vec![0; BATCH * BLOCK_LEN];
    let mut nonces = Nonces::for_request();
    let seal = |(block, page): (u64, &mut [u8])| seal_block(&key, block, META, &mut nonces, page);
    let versions: Vec<_> = (0..).zip(stored.chunks_exact_mut(BLOCK_LEN)).map(seal).collect();
    let mut data = stored.clone();
    Measure::new(move || {
        data.copy_from_slice(&stored);
        for ((block, page), version) in (0..).zip(data.chunks_exact_mut(BLOCK_LEN)).zip(&versions) {
            open_block(&key, block, version, page).expect("it was sealed here");
        }
    })
}

fn naming(suite: Suite) -> Measure {
    let keys = VolumeKeys::derive(suite, random::bytes(), &secret(suite));
    let dir = random::bytes();
    Measure::new(move || {
        let names = Names { mode: NameMode::Encrypted, name_max: 255, keys: &keys };
        for _ in 0..BATCH {
            black_box(names.store(&dir, black_box(NAME)).expect("a name"));
        }
    })
}

/// What the opening of a file derives and checks, once its data key is there.
fn deriving(suite: Suite) -> Measure {
    let (volume, file, data_key) = (random::bytes(), random::bytes(), secret(suite));
    let check = FileKeys::derive(suite, volume, file, &data_key).key_check();
    Measure::new(move || {
        for _ in 0..BATCH {
            let keys = FileKeys::derive(suite, volume, file, black_box(&data_key));
            keys.verify_key_check(&check).expect("the same key");
            black_box(keys.block_key(0));
        }
    })
}

fn rounded(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}
