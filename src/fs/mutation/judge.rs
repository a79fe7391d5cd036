//! What a change has done: an error that names the file, nothing, or something that docs/SECURITY.md lists under "Not
//! detected". Anything else is a hole.

use std::collections::BTreeSet;

use crate::cli::exit_code::Exit;
use crate::command::check::report::{Finding, Kind, Severity};
use crate::format::STATE_FILE;
use crate::format::layout::{BLOCK_LEN, RECORD_AT};
use crate::format::volume::NameMode;

use super::corpus::Corpus;
use super::seen::{Body, Content, Got, Object, Path8, Seen};

/// What is not detected: one value for each bullet of the list in docs/SECURITY.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listed {
    PutBack,
    Gone,
    Elsewhere,
    NoMarker,
    Unclean,
    SizeBeforeOpening,
    PlainNames,
    NoContent,
}

impl Listed {
    pub const ALL: [Self; 8] = [
        Self::PutBack,
        Self::Gone,
        Self::Elsewhere,
        Self::NoMarker,
        Self::Unclean,
        Self::SizeBeforeOpening,
        Self::PlainNames,
        Self::NoContent,
    ];

    /// How its bullet begins.
    pub fn bullet(self) -> &'static str {
        match self {
            Self::PutBack => "anything put back to what it was earlier",
            Self::Gone => "deletion; a file emptied to length 0",
            Self::Elsewhere => "a stored file in the place of any other file of the volume",
            Self::NoMarker => "a deleted marker `kmsfs.dir`",
            Self::Unclean => "after a mount that did not end cleanly",
            Self::SizeBeforeOpening => "the size that `stat` shows of a file that nobody has opened",
            Self::PlainNames => "with `--plain-names`: changed names, symlink targets and xattrs",
            Self::NoContent => "an entry replaced by something that has no content to verify",
        }
    }

    /// Whether the difference at `path` is what this bullet says, to the byte.
    fn allows(self, corpus: &Corpus, after: &Seen, path: &[u8], difference: &Difference) -> bool {
        let now = corpus.now.objects.get(path);
        let seen = after.objects.get(path);
        let past: Vec<&Object> = corpus.history.iter().filter_map(|older| older.objects.get(path)).collect();
        match (self, difference) {
            (Self::PutBack, Difference::Missing | Difference::Unlisted) => past.len() < corpus.history.len(),
            (Self::PutBack, Difference::Extra) => seen.is_some_and(|seen| past.contains(&seen)),
            (Self::PutBack, Difference::Size(size)) => past.iter().any(|older| older.size == *size),
            (Self::PutBack, Difference::Len(size)) => {
                let least = synced(&corpus.older_dir, &corpus.history[0], path).filter(|_| corpus.crashed);
                let is = |was: u64| was == *size || least.is_some_and(|least| (least..was).contains(size));
                past.iter().any(|older| older.content().is_some_and(|content| is(content.size)))
            }
            (Self::PutBack | Self::Unclean, Difference::Block(n)) => {
                let bytes = block_of(seen, *n);
                bytes.is_some_and(|bytes| past.iter().copied().chain(now).any(|older| fits(older, *n, bytes)))
            }
            (Self::PutBack, Difference::Target) => past.iter().any(|older| Some(&older.body) == seen.map(|s| &s.body)),
            (Self::PutBack, Difference::Xattr(name)) => {
                past.iter().any(|older| older.xattrs.get(name) == seen.and_then(|seen| seen.xattrs.get(name)))
            }
            (Self::Gone, Difference::Missing | Difference::Unlisted) => true,
            (Self::Gone, Difference::Size(size) | Difference::Len(size)) => *size == 0,
            (Self::Gone, Difference::Xattr(name)) => seen.is_some_and(|seen| !seen.xattrs.contains_key(name)),
            (Self::Elsewhere, Difference::Missing | Difference::Unlisted) => false,
            (Self::Elsewhere, Difference::Target) => {
                let target = seen.map(|seen| &seen.body);
                corpus.now.objects.values().any(|other| Some(&other.body) == target)
            }
            (Self::Elsewhere, Difference::Xattr(name)) => {
                let value = seen.and_then(|seen| seen.xattrs.get(name));
                value.is_some() && corpus.now.objects.values().any(|other| other.xattrs.get(name) == value)
            }
            (Self::Elsewhere, Difference::Len(_) | Difference::Block(_)) => {
                // The first page of another file: its size, and of its content what is there.
                let is = |other: &Content, seen: &Content| {
                    let same = |(n, block): (&u64, &Got<Vec<u8>>)| block.is_err() || other.blocks.get(n) == Some(block);
                    let size = other.size == seen.size || (corpus.crashed && seen.size < other.size);
                    size && seen.blocks.iter().all(same)
                };
                let others = corpus.now.objects.values().filter_map(Object::content);
                seen.and_then(Object::content).is_some_and(|seen| others.into_iter().any(|other| is(other, seen)))
            }
            (Self::Elsewhere, _) => {
                // The whole of what is there is that of another entry, as far as it can be read.
                let is = |other: &Object, seen: &Object| {
                    let body = match (&other.body, &seen.body) {
                        (_, Body::Dir(Err(_)) | Body::Link(Err(_)) | Body::File(Err(_))) => true,
                        (Body::File(Ok(other)), Body::File(Ok(seen))) => {
                            seen.blocks.iter().all(|(n, block)| block.is_err() || other.blocks.get(n) == Some(block))
                        }
                        (other, seen) => other == seen,
                    };
                    body && (&other.kind, other.size, &other.xattrs) == (&seen.kind, seen.size, &seen.xattrs)
                };
                seen.is_some_and(|seen| corpus.now.objects.values().any(|other| is(other, seen)))
            }
            (Self::NoMarker, Difference::Missing | Difference::Unlisted) => true,
            (Self::Unclean, Difference::Len(size)) => {
                now.and_then(Object::content).is_some_and(|content| *size < content.size)
                    && synced(&corpus.dir, &corpus.now, path).is_some_and(|synced| *size >= synced)
            }
            // What opening shows is judged by itself.
            (Self::SizeBeforeOpening, Difference::Size(size)) => {
                seen.and_then(Object::content).is_none_or(|content| content.size != *size)
            }
            (Self::Unclean, Difference::Size(size)) => {
                let shorter = |seen: &Content, now: &Content| seen.size < now.size && seen.size != *size;
                let both = seen.and_then(Object::content).zip(now.and_then(Object::content));
                both.is_some_and(|(seen, now)| shorter(seen, now))
            }
            (Self::PlainNames, Difference::Block(_) | Difference::Len(_) | Difference::Size(_)) => false,
            (Self::PlainNames, _) => corpus.setup.names == NameMode::Plain,
            (Self::NoContent, Difference::Kind | Difference::Size(_) | Difference::Len(_)) => {
                seen.is_some_and(|seen| match &seen.body {
                    Body::Other => true,
                    Body::Dir(Ok(names)) => names.is_empty(),
                    Body::File(Ok(content)) => content.size == 0,
                    _ => false,
                })
            }
            (Self::NoContent, Difference::Missing) => true,
            (Self::NoContent, Difference::Xattr(name)) => seen.is_some_and(|seen| !seen.xattrs.contains_key(name)),
            _ => false,
        }
    }
}

/// The record's size that a barrier made durable: it stands in clear.
fn synced(dir: &tempfile::TempDir, seen: &Seen, path: &[u8]) -> Option<u64> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(dir.path().join(seen.stored.get(path)?)).ok()?;
    let mut synced = [0; 8];
    file.read_exact_at(&mut synced, RECORD_AT as u64 + 16).ok()?;
    Some(u64::from_le_bytes(synced))
}

fn block_of(object: Option<&Object>, n: u64) -> Option<&[u8]> {
    object?.content()?.blocks.get(&n)?.as_ref().ok().map(Vec::as_slice)
}

/// Whether block `n` of an object is these bytes, where the sizes are not those of the same time: a block is whole, with
/// zeros behind the end.
fn fits(object: &Object, n: u64, bytes: &[u8]) -> bool {
    let Some(content) = object.content() else { return false };
    let mut whole = vec![0; BLOCK_LEN];
    match content.blocks.get(&n) {
        Some(Ok(block)) => whole[..block.len()].copy_from_slice(block),
        Some(Err(_)) => return false,
        // Behind its end: nothing was ever there.
        None if n * BLOCK_LEN as u64 >= content.size => return false,
        None => return false,
    }
    whole[..bytes.len()] == *bytes
}

/// How something is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    Error(i32),
    Missing,
    Unlisted,
    Extra,
    Kind,
    /// What `stat` says.
    Size(u64),
    /// What it has when it is open.
    Len(u64),
    Block(u64),
    Target,
    Xattr(Vec<u8>),
    /// A listing has a name twice.
    Twice,
}

/// How `after` differs from the volume as it was. Files that were not read are compared by what `stat` says.
pub fn differences(corpus: &Corpus, after: &Seen) -> Vec<(Path8, Difference)> {
    let mut out = Vec::new();
    let none = BTreeSet::new();
    for (path, before) in &corpus.now.objects {
        let mut add = |difference| out.push((path.clone(), difference));
        let Some(object) = after.objects.get(path) else {
            // Below what cannot be looked at nothing is looked up.
            let refused = |dir: &[u8]| after.objects.get(dir).is_some_and(|dir| dir.kind == Err(libc::EIO));
            if !above(path).any(refused) {
                add(Difference::Missing);
            }
            continue;
        };
        match object.kind {
            Err(libc::ENOENT) => {
                add(Difference::Missing);
                continue;
            }
            Err(e) => {
                add(Difference::Error(e));
                continue;
            }
            Ok(_) => {}
        }
        if before.listed && !object.listed {
            add(Difference::Unlisted);
        }
        if before.kind != object.kind {
            add(Difference::Kind);
        }
        // What `stat` says is compared where it is not what opening or reading says, which is compared below; and of
        // something that reading refuses it is not believed.
        let told_below = match &object.body {
            Body::Link(target) => target.as_ref().map_or(true, |target| target.len() as u64 == object.size),
            Body::File(content) => content.as_ref().map_or(true, |content| content.size == object.size),
            _ => false,
        };
        if before.size != object.size && !told_below {
            add(Difference::Size(object.size));
        }
        for name in before.xattrs.keys().chain(object.xattrs.keys()).collect::<BTreeSet<_>>() {
            match object.xattrs.get(name) {
                Some(Err(e)) => add(Difference::Error(*e)),
                value if value != before.xattrs.get(name) => add(Difference::Xattr(name.clone())),
                _ => {}
            }
        }
        match (&before.body, &object.body) {
            (_, Body::Dir(Err(e)) | Body::Link(Err(e)) | Body::File(Err(e))) => add(Difference::Error(*e)),
            (Body::Dir(names), Body::Dir(Ok(listed))) => {
                let names = names.as_ref().unwrap_or(&none);
                if listed.difference(names).any(|name| name.ends_with(b" (twice)")) {
                    add(Difference::Twice);
                }
            }
            (Body::Link(target), Body::Link(now)) if target != now => add(Difference::Target),
            (Body::File(Ok(content)), Body::File(Ok(now))) => {
                if content.size != now.size {
                    add(Difference::Len(now.size));
                }
                for (n, block) in &now.blocks {
                    match (block, content.blocks.get(n)) {
                        (Err(e), _) => add(Difference::Error(*e)),
                        (Ok(now), Some(Ok(before))) if now == before => {}
                        // The end moved: what is left of the block is what it was.
                        (Ok(now), Some(Ok(before))) if now.len() < before.len() && before.starts_with(now) => {}
                        _ => add(Difference::Block(*n)),
                    }
                }
            }
            _ => {}
        }
    }
    for path in after.objects.keys().filter(|path| !corpus.now.objects.contains_key(*path)) {
        match after.objects[path].kind {
            Ok(_) => out.push((path.clone(), Difference::Extra)),
            Err(libc::ENOENT) => {}
            Err(e) => out.push((path.clone(), Difference::Error(e))),
        }
    }
    out
}

/// The directories that a path lies in.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..path.len()).filter(|&at| path[at] == b'/').map(|at| &path[..at])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Detected,
    Identical,
    Listed(Listed),
}

/// Whether `path` is one of `touched`, or below one.
fn is_touched(touched: &BTreeSet<Path8>, path: &[u8]) -> bool {
    touched.iter().any(|touched| {
        touched.is_empty() || path.strip_prefix(&touched[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

/// Judges what a mount has shown; an error is a hole. Gives the paths whose errors `check` has to find.
pub fn judge(
    corpus: &Corpus,
    touched: &BTreeSet<Path8>,
    allowed: &BTreeSet<Listed>,
    after: &Seen,
) -> Result<(Verdict, BTreeSet<Path8>), String> {
    let mut verdict = Verdict::Identical;
    let mut errors = BTreeSet::new();
    for (path, difference) in differences(corpus, after) {
        let told = || format!("{:?} at {}", difference, String::from_utf8_lossy(&path));
        if !is_touched(touched, &path) {
            return Err(format!("{}: it was not touched", told()));
        }
        if let Difference::Error(e) = difference {
            if e != libc::EIO {
                return Err(format!("{}: not EIO", told()));
            }
            errors.insert(path);
            if verdict == Verdict::Identical {
                verdict = Verdict::Detected;
            }
            continue;
        }
        match allowed.iter().find(|listed| listed.allows(corpus, after, &path, &difference)) {
            Some(listed) => verdict = Verdict::Listed(*listed),
            None => return Err(format!("{}: none of {allowed:?} is that", told())),
        }
    }
    Ok((verdict, errors))
}

/// Whether `check` has found what a mount had errors for.
pub fn judge_check(
    corpus: &Corpus,
    after: &Seen,
    errors: &BTreeSet<Path8>,
    (exit, findings): &(Option<Exit>, Vec<Finding>),
) -> Result<(), String> {
    let wrong: Vec<&Finding> = findings.iter().filter(|finding| finding.severity != Severity::Note).collect();
    if !errors.is_empty() && *exit != Some(Exit::Damage) {
        return Err(format!("a mount has errors at {errors:?}, and check ends with {exit:?}"));
    }
    for path in errors {
        // A file with several names is looked at under one of them.
        let names = corpus.names_of(path);
        let stored: BTreeSet<&[u8]> = names
            .iter()
            .flat_map(|name| [corpus.now.stored.get(name), after.stored.get(name)])
            .flatten()
            .map(String::as_bytes)
            .collect();
        // Without a marker no name in a directory can be told: it is named itself.
        let is_above = |finding: &Finding| {
            finding.kind == Kind::Marker
                && finding.path.as_deref().is_some_and(|dir| is_touched(&BTreeSet::from([dir.to_vec()]), path))
        };
        // It may be one whose plaintext name cannot be told any more.
        let ino = |stored: &std::ffi::OsStr| {
            use std::os::unix::fs::MetadataExt;
            std::fs::symlink_metadata(corpus.dir.path().join(stored)).ok().map(|meta| meta.ino())
        };
        let of = corpus.now.stored.get(path).and_then(|stored| ino(stored.as_ref()));
        let named = wrong.iter().any(|finding| {
            use std::os::unix::ffi::OsStrExt;
            finding.path.as_ref().is_some_and(|told| names.contains(told))
                || stored.contains(&finding.stored[..])
                || (of.is_some() && ino(std::ffi::OsStr::from_bytes(&finding.stored)) == of)
                || is_above(finding)
        });
        if !named {
            return Err(format!("check does not name {}: {findings:?}", String::from_utf8_lossy(path)));
        }
    }
    Ok(())
}

/// Whether `check` names the volume's own file that a mount refuses.
pub fn names_own_file(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Damage && finding.stored == STATE_FILE.as_bytes())
}
