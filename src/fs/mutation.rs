//! Changes made below the file system: each stored byte, page, entry and link of a volume is changed, and everything is
//! read. What was changed gives an error that names the file, or reads as it was, or is one of those that
//! docs/SECURITY.md lists under "Not detected", exactly as it is said there; and `check` finds what a mount refuses.
//!
//! [`corpus`] makes the volumes, [`kinds`] the changes, [`store`] applies them and puts them back, [`seen`] reads, and
//! [`judge`] says what it was.

mod corpus;
mod judge;
mod kinds;
mod seen;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use crate::crypto::Suite;

use super::power_cut::Random;
use super::power_cut::Volume as _;
use super::power_cut::rig::{Rig, Setup};
use corpus::Corpus;
use judge::{Listed, Verdict};
use kinds::{Ground, Mutation};
use seen::{Seen, Wanted, check, look};
use store::Work;

/// What became of the changes of one kind.
#[derive(Default)]
struct Count {
    tried: u64,
    detected: u64,
    identical: u64,
    listed: BTreeMap<Listed, u64>,
}

/// Changes one volume, again and again.
struct Trial<'a> {
    corpus: &'a Corpus,
    work: Work,
    counts: BTreeMap<&'static str, Count>,
    turn: u64,
    /// What was neither an error, nor the same, nor listed.
    holes: Vec<String>,
}

impl<'a> Trial<'a> {
    fn of(corpus: &'a Corpus) -> Self {
        Self { corpus, work: Work::on(corpus.dir.path()), counts: BTreeMap::new(), turn: 0, holes: Vec::new() }
    }

    fn all(&mut self, mutations: impl IntoIterator<Item = Mutation>) {
        for mutation in mutations {
            self.one(&mutation, true, String::new);
        }
    }

    /// One change: what was touched is read, and something that was not. With `read_only` false the mount may write.
    fn one(&mut self, mutation: &Mutation, read_only: bool, seed: impl Fn() -> String) {
        self.turn += 1;
        let read: BTreeSet<_> =
            mutation.touches.iter().cloned().chain([b"size1".to_vec(), b"other".to_vec()]).collect();
        // Where names were touched anything may lie anywhere.
        let whole =
            mutation.steps.iter().any(|step| !matches!(step, store::Step::Bytes { .. } | store::Step::Len { .. }))
                || mutation.touches.contains(&b""[..]);
        let wanted =
            Wanted { known: &self.corpus.now, read: (!whole).then_some(&read), blocks: &self.corpus.blocks, read_only };
        let turn = self.turn;
        let corpus = self.corpus;
        let verdict = self.work.with(&mutation.steps, !read_only, |at| {
            // What a mount that writes sets right is not there to be found after it.
            let before = (!read_only).then(|| check(at));
            match look(at, &wanted) {
                Err(refused) => own_files_refused(mutation, &refused, &before.unwrap_or_else(|| check(at))),
                Ok(after) => {
                    let (verdict, errors) = judge::judge(corpus, &mutation.touches, &mutation.allows, &after)?;
                    if before.is_none() && errors.is_empty() && !turn.is_multiple_of(4) {
                        return Ok(verdict);
                    }
                    let checked = before
                        .unwrap_or_else(|| check(at))
                        .map_err(|e| format!("a mount is not refused, and check is: {e}"))?;
                    judge::judge_check(corpus, &after, &errors, &checked)?;
                    Ok(verdict)
                }
            }
        });
        let told = || format!("{}: {}: {}{}", corpus.name, mutation.kind, mutation.what, seed());
        let verdict = match verdict {
            Ok(verdict) if mutation.must && verdict != Verdict::Detected => {
                return self.holes.push(format!("change {turn}: {}: {verdict:?}", told()));
            }
            Ok(verdict) => verdict,
            Err(e) => return self.holes.push(format!("change {turn}: {}: {e}; {:?}", told(), short(&mutation.steps))),
        };
        let count = self.counts.entry(mutation.kind).or_default();
        count.tried += 1;
        match verdict {
            Verdict::Detected => count.detected += 1,
            Verdict::Identical => count.identical += 1,
            Verdict::Listed(listed) => *count.listed.entry(listed).or_default() += 1,
        }
    }

    /// Says what was tried; a hole fails the test.
    fn end(self) {
        for (kind, count) in &self.counts {
            println!(
                "{} | {kind} | {} | {} | {} | {:?}",
                self.corpus.name, count.tried, count.detected, count.identical, count.listed
            );
        }
        let shown: Vec<_> = self.holes.iter().take(30).map(String::as_str).collect();
        assert!(shown.is_empty(), "{} holes of {} changes:\n{}", self.holes.len(), self.turn, shown.join("\n"));
    }
}

/// A mount that is refused: only for what is the volume's own, and `check` says so too.
fn own_files_refused(mutation: &Mutation, refused: &str, checked: &Checked) -> Result<Verdict, String> {
    if !mutation.touches.contains(&b""[..]) {
        return Err(format!("the mount is refused: {refused}"));
    }
    match checked {
        Ok((_, findings)) if !judge::names_own_file(findings) => {
            Err(format!("the mount is refused ({refused}), and check finds {findings:?}"))
        }
        _ => Ok(Verdict::Detected),
    }
}

type Checked = Result<(Option<crate::cli::exit_code::Exit>, Vec<crate::command::check::report::Finding>), String>;

fn short(steps: &[store::Step]) -> Vec<String> {
    let one = |step: &store::Step| match step {
        store::Step::Bytes { file, off, data } => format!("{} bytes at {off} of {file}", data.len()),
        other => format!("{other:?}"),
    };
    steps.iter().map(one).collect()
}

fn scale() -> u64 {
    std::env::var("KMSFS_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn first_seed() -> u64 {
    std::env::var("KMSFS_MUTATION_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn aes() -> Setup {
    Setup::encrypted_names()
}

fn sm4() -> Setup {
    Setup { suite: Suite::Sm4Gcm, ..aes() }
}

/// Every byte of head pages and tag pages is changed, or one of `thin` with a small scale: an error, or nothing is
/// different.
fn every_byte_of_the_pages_that_say_what_is_where(corpus: &Corpus, thin: u64) {
    let ground = Ground::new(corpus);
    let mut trial = Trial::of(corpus);
    let mut random = Random(first_seed());
    for (path, page) in [("two", 0), ("sparse", 0), ("sparse", 31), ("groups", 31)] {
        let file = ground.file(path);
        for byte in (0..4096).step_by((thin / scale()).max(1) as usize) {
            for _ in 0..(scale() / thin).clamp(1, 8) {
                trial.all([ground.flip(file, page * 4096 + byte, random.below(8) as u8)]);
            }
        }
    }
    trial.end();
}

#[test]
fn every_byte_of_head_and_tag_pages_with_aes() {
    every_byte_of_the_pages_that_say_what_is_where(&corpus::small("aes, bytes", &aes()), 1);
}

#[test]
fn every_byte_of_head_and_tag_pages_with_sm4() {
    every_byte_of_the_pages_that_say_what_is_where(&corpus::small("sm4, bytes", &sm4()), 5);
}

/// Everything else that can be done to a volume, one at a time. Of `thin` changes of a kind one is made, all with a
/// larger scale.
fn every_kind_of_change(corpus: &Corpus, thin: u64) {
    let thin = (thin / scale()).max(1);
    let ground = Ground::new(corpus);
    let mut trial = Trial::of(corpus);
    let mut random = Random(first_seed());
    let n = scale() as usize;
    assert_eq!(differences_of_nothing(&mut trial), Vec::new(), "a volume that nobody changed is as it was");
    for kind in [
        ground.flips(&mut random, 2 * n),
        ground.zeros(),
        ground.pages(&mut random, 60 * n),
        ground.parts(&mut random, 60 * n),
        ground.older_parts(&mut random, 60 * n),
        ground.lengths(),
        ground.entries(),
        ground.markers(),
        ground.long_links(),
        ground.targets(),
        ground.xattrs(),
        ground.redo(&mut random),
        ground.own_files(),
    ] {
        trial.all(kind.into_iter().filter(|_| thin == 1 || random.below(thin) == 0));
    }
    trial.end();
}

/// Several changes at once, in the kinds that can be told apart: parts of stored files; or entries, and flips. Half of the
/// mounts may write.
fn many_changes_at_once(corpus: &Corpus, runs: u64) {
    let ground = Ground::new(corpus);
    let mut trial = Trial::of(corpus);
    let mut random = Random(first_seed());
    let flips: Vec<_> = [ground.flips(&mut random, 2), ground.zeros()].concat();
    let mut parts = [flips.clone(), ground.parts(&mut random, 60), ground.older_parts(&mut random, 60)].concat();
    parts.extend([ground.lengths(), ground.pages(&mut random, 60), ground.redo(&mut random)].concat());
    // A time at which the volume was mounted: what was written then is not settled any more.
    parts.extend(
        ground.own_files().into_iter().filter(|mutation| mutation.allows.contains(&Listed::PutBack)).cycle().take(60),
    );
    // What becomes another file is that no more with parts of a third.
    parts.retain(|mutation| !mutation.allows.contains(&Listed::Elsewhere));
    let names = [ground.entries(), ground.markers(), ground.long_links(), ground.targets(), ground.xattrs()].concat();
    let any = |random: &mut Random, of: &[Mutation]| of[random.below(of.len() as u64) as usize].clone();
    for seed in first_seed()..first_seed() + runs * scale() {
        let mut random = Random(seed);
        let mut all: Vec<Mutation> = Vec::new();
        if random.below(2) == 0 {
            (0..2 + random.below(5)).for_each(|_| all.push(any(&mut random, &parts)));
        } else {
            (0..1 + random.below(3)).for_each(|_| all.push(any(&mut random, &flips)));
            all.push(any(&mut random, &names));
        }
        let what: Vec<_> = all.iter().map(|mutation| format!("{}: {}", mutation.kind, mutation.what)).collect();
        let together = Mutation {
            kind: "several at once",
            what: what.join("; "),
            steps: all.iter().flat_map(|mutation| mutation.steps.iter().cloned()).collect(),
            touches: all.iter().flat_map(|mutation| mutation.touches.iter().cloned()).collect(),
            allows: all.iter().flat_map(|mutation| mutation.allows.iter().copied()).collect(),
            must: false,
        };
        trial.one(&together, random.below(2) == 0, || format!("; KMSFS_MUTATION_SEED={seed}"));
    }
    trial.end();
}

fn differences_of_nothing(trial: &mut Trial<'_>) -> Vec<(seen::Path8, judge::Difference)> {
    let wanted = Wanted { known: &Seen::default(), read: None, blocks: &trial.corpus.blocks, read_only: true };
    let after = trial.work.with(&[], false, |at| look(at, &wanted)).expect("it mounts");
    judge::differences(trial.corpus, &after)
}

#[test]
fn changes_of_a_volume_with_aes() {
    every_kind_of_change(&corpus::full("aes", &aes()), 3);
}

#[test]
fn changes_of_a_volume_with_sm4() {
    every_kind_of_change(&corpus::full("sm4", &sm4()), 8);
}

#[test]
fn changes_of_a_volume_with_plain_names() {
    every_kind_of_change(&corpus::full("plain names", &Setup::safe()), 6);
}

#[test]
fn changes_of_a_volume_with_shared_data_keys() {
    every_kind_of_change(&corpus::full("shared keys", &Setup { files_per_data_key: 16, ..aes() }), 8);
}

#[test]
fn changes_of_a_volume_that_a_crash_has_left() {
    every_kind_of_change(&corpus::crashed("crashed", &aes()), 5);
}

/// The list of what is not detected has a bullet for each thing that the tests let pass, and no other.
#[test]
fn what_is_let_pass_is_what_the_page_lists() {
    let page = include_str!("../../docs/SECURITY.md");
    let (_, list) = page.split_once("\n**Not detected:**\n").expect("the list");
    let (list, _) = list.split_once("\nSo an attacker who").expect("its end");
    let bullets: Vec<&str> = list.split("\n- ").skip(1).collect();
    for listed in Listed::ALL {
        let of: Vec<_> = bullets.iter().filter(|bullet| bullet.starts_with(listed.bullet())).collect();
        assert_eq!(of.len(), 1, "{listed:?}: {}", listed.bullet());
    }
    assert_eq!(bullets.len(), Listed::ALL.len(), "{bullets:#?}");
}

/// What is found in `path` of a volume as it lies in `at`.
fn content_of(at: &std::path::Path, path: &str, blocks: &[u64]) -> seen::Got<seen::Content> {
    let blocks = BTreeMap::from([(path.as_bytes().to_vec(), blocks.to_vec())]);
    let wanted = Wanted { known: &Seen::default(), read: None, blocks: &blocks, read_only: true };
    match &look(at, &wanted).expect("it mounts").objects[path.as_bytes()].body {
        seen::Body::File(content) => content.clone(),
        other => panic!("{path} is {other:?}"),
    }
}

fn change(at: &std::path::Path, path: &str, change: impl FnOnce(&std::fs::File)) {
    change(&std::fs::File::options().read(true).write(true).open(at.join(path)).expect("opens"));
}

/// Data in a hole makes its group complete. Its bit waited for one more barrier than the data, and was forgotten if the
/// file was closed before: zeros in the place of its slots were a hole then.
#[test]
fn a_zeroed_page_of_slots_is_no_hole_in_a_group_that_was_filled() {
    use std::os::unix::fs::FileExt;
    let mut rig = Rig::new(&Setup::safe());
    corpus::write_volume_file(&rig, &Setup::safe());
    rig.create("sparse").expect("creates");
    rig.write("sparse", 200 * 4096, b"end").expect("writes");
    rig.remount();
    rig.write("sparse", 100 * 4096, b"filled").expect("writes");
    rig.remount();
    let at = rig.path();
    let read = || content_of(at, "sparse", &[64, 100, 128, 200]).expect("opens").blocks;
    assert!(read().values().all(Result::is_ok));
    change(at, "sparse", |file| file.write_all_at(&[0; 4096], 66 * 4096).expect("writes"));
    let after = read();
    assert_eq!((&after[&64], &after[&100]), (&Err(libc::EIO), &Err(libc::EIO)));
    assert!(after[&128].is_ok() && after[&200].is_ok(), "its neighbours");
}

/// The size is not known then, and the stored length may be any.
#[test]
fn a_check_ends_though_a_file_has_no_record_and_any_length() {
    use std::os::unix::fs::FileExt;
    let mut rig = Rig::new(&Setup::safe());
    corpus::write_volume_file(&rig, &Setup::safe());
    rig.create("file").expect("creates");
    rig.write("file", 0, &[1; 5000]).expect("writes");
    rig.remount();
    change(rig.path(), "file", |file| {
        file.write_all_at(&[0; 64], 4032).expect("writes");
        file.set_len(i64::MAX as u64).expect("as long as can be");
    });
    let (exit, findings) = check(rig.path()).expect("checks");
    assert_eq!(exit, Some(crate::cli::exit_code::Exit::Damage));
    assert!(findings.iter().any(|finding| finding.kind.name() == "record"), "{findings:?}");
    assert_eq!(content_of(rig.path(), "file", &[]), Err(libc::EIO));
}

/// A crash may keep the record of a size that was never synced, and lose the pages and maps in between. The end is looked
/// for where something is stored, not block by block.
#[test]
fn a_lost_end_of_a_terabyte_is_cut_off_at_once() {
    let mut rig = Rig::new(&Setup::safe());
    corpus::write_volume_file(&rig, &Setup::safe());
    rig.create("file").expect("creates");
    rig.write("file", 0, &[1; 5000]).expect("writes");
    rig.fsync("file").expect("syncs");
    rig.set_len("file", 1 << 40).expect("grows");
    let dir = super::power_cut::rig::fresh_dir();
    store::copy_tree(rig.path(), dir.path());
    change(dir.path(), "file", |file| {
        let len = file.metadata().expect("exists").len();
        file.set_len(3 * 4096).expect("cuts");
        file.set_len(len).expect("grows");
    });
    let content = content_of(dir.path(), "file", &[0, 1]).expect("opens");
    assert_eq!(content.size, 30 * 4096, "the blocks of the first page, which is there: holes behind the data");
    assert!(content.blocks.values().all(Result::is_ok));
}

#[test]
fn many_changes_of_a_volume_at_once() {
    many_changes_at_once(&corpus::full("several", &aes()), 300);
}

#[test]
fn many_changes_at_once_of_a_volume_that_a_crash_has_left() {
    many_changes_at_once(&corpus::crashed("several, crashed", &sm4()), 150);
}
