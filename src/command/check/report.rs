//! What `check` has found, and how it is said: as text for a person, as one JSON document for a program
//! (`docs/CHECK.md`). Plaintext paths stand here, for the owner at the terminal, and in no log.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::cli::exit_code::Exit;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something cannot be read, or is not what was written.
    Damage,
    /// What a crash leaves; `--repair` mends it.
    Leftover,
    /// Could not be looked at; nothing is said about it.
    Unchecked,
    /// Worth knowing.
    Note,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Leftover => "leftover",
            Self::Unchecked => "unchecked",
            Self::Note => "note",
        }
    }
}

/// The kinds of findings. [`Kind::name`] is stable: `docs/CHECK.md` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    State,
    StatePutBack,
    Session,
    Temporary,
    RedoFile,
    Lock,
    Reserved,
    Marker,
    DirectoryId,
    Foreign,
    LongName,
    OrphanLink,
    Target,
    TargetPart,
    Xattr,
    Unreadable,
    Short,
    Header,
    HeaderCopy,
    Key,
    Record,
    Map,
    Cut,
    Length,
    LostEnd,
    Tail,
    FileId,
    Block,
    Slot,
    Missing,
    ReadError,
    Older,
    RedoPage,
    Repair,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::StatePutBack => "state-put-back",
            Self::Session => "session",
            Self::Temporary => "temporary",
            Self::RedoFile => "redo-file",
            Self::Lock => "lock",
            Self::Reserved => "reserved",
            Self::Marker => "marker",
            Self::DirectoryId => "directory-id",
            Self::Foreign => "foreign",
            Self::LongName => "long-name",
            Self::OrphanLink => "orphan-link",
            Self::Target => "target",
            Self::TargetPart => "target-part",
            Self::Xattr => "xattr",
            Self::Unreadable => "unreadable",
            Self::Short => "short",
            Self::Header => "header",
            Self::HeaderCopy => "header-copy",
            Self::Key => "key",
            Self::Record => "record",
            Self::Map => "map",
            Self::Cut => "cut",
            Self::Length => "length",
            Self::LostEnd => "lost-end",
            Self::Tail => "tail",
            Self::FileId => "file-id",
            Self::Block => "block",
            Self::Slot => "slot",
            Self::Missing => "missing",
            Self::ReadError => "read-error",
            Self::Older => "older",
            Self::RedoPage => "redo-page",
            Self::Repair => "repair",
        }
    }

    /// What to do about it.
    fn remedy(self, severity: Severity) -> &'static str {
        const BACKUP: &str = "restore it from a backup; kmsfs check --salvage DIR copies out what can be read";
        const MEND: &str = "unmount the volume and run kmsfs check --repair";
        match (self, severity) {
            (_, Severity::Leftover) => MEND,
            (Self::State, _) => "put kmsfs.state back from a backup, or mount once with --reset-state",
            (Self::StatePutBack, _) => "find out who put an older kmsfs.state back: files may be older than they were",
            (Self::Marker, _) => {
                "put the directory's kmsfs.dir (a symlink) back from a backup: its names cannot be read without"
            }
            (Self::Foreign, Severity::Damage) => {
                "move it back to the directory and the stored name that it had; its content can be had with --salvage"
            }
            (Self::LongName, _) => "put the link beside it back from a backup; its content can be had with --salvage",
            (Self::Target | Self::TargetPart, _) => "make the symlink again, or put the stored one back from a backup",
            (Self::Xattr, Severity::Damage) => "set the attribute again",
            (Self::Key, _) => "check again once the KMS gives the key",
            (Self::Unreadable, Severity::Unchecked) => {
                "see why it cannot be read: permissions, another mount, the disk"
            }
            (Self::Repair, _) => "see the cause, and run kmsfs check --repair again",
            (_, Severity::Damage) => BACKUP,
            _ => "nothing has to be done",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Finding {
    pub severity: Severity,
    pub kind: Kind,
    /// Plaintext; `None` where it cannot be told, or for the volume itself.
    pub path: Option<Vec<u8>>,
    /// Under the backing directory.
    pub stored: Vec<u8>,
    pub blocks: Vec<Range<u64>>,
    pub cause: String,
    pub repaired: bool,
}

impl Finding {
    pub fn new(severity: Severity, kind: Kind, path: Option<&[u8]>, stored: &[u8], cause: impl Into<String>) -> Self {
        Self {
            severity,
            kind,
            path: path.map(<[u8]>::to_vec),
            stored: stored.to_vec(),
            blocks: Vec::new(),
            cause: cause.into(),
            repaired: false,
        }
    }

    pub fn with_blocks(mut self, blocks: Vec<Range<u64>>) -> Self {
        self.blocks = blocks;
        self
    }

    fn json(&self) -> Value {
        let ranges: Vec<_> = self.blocks.iter().map(|range| json!([range.start, range.end - 1])).collect();
        let mut out = json!({
            "severity": self.severity.name(), "kind": self.kind.name(), "path": self.path.as_deref().map(lossy),
            "stored": lossy(&self.stored), "blocks": ranges, "cause": self.cause,
            "remedy": self.kind.remedy(self.severity), "repaired": self.repaired,
        });
        if let Some(path) = self.path.as_deref().filter(|path| std::str::from_utf8(path).is_err()) {
            out["path_hex"] = crate::format::volume::hex(path).into();
        }
        out
    }

    pub fn text(&self) -> String {
        let shown = self.path.as_deref().map_or_else(|| format!("[{}]", printable(&self.stored)), printable);
        let what = if self.repaired { "repaired" } else { self.severity.name() };
        let mut out = format!("{what}: {shown}: {}", self.cause);
        if !self.blocks.is_empty() {
            out += &format!(": {}", block_list(&self.blocks));
        }
        if self.path.is_some() && !self.stored.is_empty() {
            out += &format!("\n    stored as {}", printable(&self.stored));
        }
        if !self.repaired && self.severity != Severity::Note {
            out += &format!("\n    {}", self.kind.remedy(self.severity));
        }
        out
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A path for a terminal: what is no text, or steers terminals, is escaped.
pub fn printable(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return ".".into();
    }
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
        }
        chunk.invalid().iter().for_each(|byte| out += &format!("\\x{byte:02x}"));
    }
    out
}

/// "block 3", "blocks 3, 5-9".
fn block_list(blocks: &[Range<u64>]) -> String {
    /// More ranges than these are counted; JSON has all.
    const SHOWN: usize = 20;
    let one = |range: &Range<u64>| match range.end - range.start {
        1 => range.start.to_string(),
        _ => format!("{}-{}", range.start, range.end - 1),
    };
    let shown: Vec<_> = blocks.iter().take(SHOWN).map(one).collect();
    let several = blocks.len() > 1 || blocks.iter().any(|range| range.end - range.start > 1);
    let more = if blocks.len() > SHOWN { format!(" and {} more ranges", blocks.len() - SHOWN) } else { String::new() };
    format!("block{} {}{more}", if several { "s" } else { "" }, shown.join(", "))
}

/// Counted while the check runs.
#[derive(Debug, Default)]
pub struct Counts {
    pub files: AtomicU64,
    pub directories: AtomicU64,
    pub symlinks: AtomicU64,
    pub others: AtomicU64,
    /// Plaintext bytes of the files.
    pub bytes: AtomicU64,
    pub blocks: AtomicU64,
    /// Stored bytes that were read, and that are known of so far: for the progress.
    pub read: AtomicU64,
    pub known: AtomicU64,
    /// Files that `--salvage` has copied, whole or in part.
    pub salvaged: AtomicU64,
}

pub fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What has been found so far. Shared by all threads.
pub struct Report {
    findings: Mutex<Vec<Finding>>,
    pub counts: Counts,
    started: Instant,
}

/// The end of a check, as the summary and the exit code have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub damage: u64,
    pub leftovers: u64,
    pub unchecked: u64,
    pub notes: u64,
    pub repaired: u64,
}

impl Tally {
    /// `None`: nothing is wrong.
    pub fn exit(&self) -> Option<Exit> {
        match (self.damage + self.leftovers, self.unchecked, self.repaired) {
            (1.., _, _) => Some(Exit::Damage),
            (0, 1.., _) => Some(Exit::Unchecked),
            (0, 0, 1..) => Some(Exit::Repaired),
            (0, 0, 0) => None,
        }
    }
}

impl Default for Report {
    fn default() -> Self {
        Self { findings: Mutex::default(), counts: Counts::default(), started: Instant::now() }
    }
}

impl Report {
    pub fn add(&self, finding: Finding) {
        self.findings.lock().push(finding);
    }

    pub fn extend(&self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.lock().extend(findings);
    }

    pub fn of_severity(&self, severity: Severity) -> Vec<Finding> {
        self.findings.lock().iter().filter(|finding| finding.severity == severity).cloned().collect()
    }

    #[cfg(test)]
    pub fn findings(&self) -> parking_lot::MutexGuard<'_, Vec<Finding>> {
        self.findings.lock()
    }

    /// Whether anything was not looked at, or could not be read this time.
    pub fn any_unchecked(&self) -> bool {
        let unread = |finding: &Finding| finding.severity == Severity::Unchecked || finding.kind == Kind::ReadError;
        self.findings.lock().iter().any(unread)
    }

    /// Marks findings as repaired.
    pub fn repaired(&self, which: impl Fn(&Finding) -> bool) {
        self.findings.lock().iter_mut().filter(|finding| which(finding)).for_each(|finding| finding.repaired = true);
    }

    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for finding in self.findings.lock().iter() {
            *match finding.severity {
                _ if finding.repaired => &mut tally.repaired,
                Severity::Damage => &mut tally.damage,
                Severity::Leftover => &mut tally.leftovers,
                Severity::Unchecked => &mut tally.unchecked,
                Severity::Note => &mut tally.notes,
            } += 1;
        }
        tally
    }

    /// Findings in the order of the stored paths.
    pub fn finish(&self) {
        self.findings.lock().sort_by(|a, b| (&a.stored, a.severity, a.kind).cmp(&(&b.stored, b.severity, b.kind)));
    }

    pub fn json(&self, mode: &str, mounted: bool) -> Value {
        let (tally, counts) = (self.tally(), &self.counts);
        let findings: Vec<_> = self.findings.lock().iter().map(Finding::json).collect();
        json!({
            "version": 1, "mode": mode, "mounted": mounted, "findings": findings,
            "summary": {
                "files": value(&counts.files), "directories": value(&counts.directories),
                "symlinks": value(&counts.symlinks), "others": value(&counts.others), "bytes": value(&counts.bytes),
                "blocks": value(&counts.blocks), "seconds": self.started.elapsed().as_secs_f64(),
                "damage": tally.damage, "leftovers": tally.leftovers, "unchecked": tally.unchecked,
                "notes": tally.notes, "repaired": tally.repaired, "salvaged": value(&counts.salvaged),
                "exit": tally.exit().map_or(0, |exit| exit as u8),
            },
        })
    }

    pub fn text(&self) -> String {
        let mut out: String = self.findings.lock().iter().map(|finding| finding.text() + "\n").collect();
        let (tally, counts, took) = (self.tally(), &self.counts, self.started.elapsed());
        let n = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        out += &format!(
            "looked at {}, {}, {}; {} in {}, {}\n",
            n(value(&counts.files), "file", "files"),
            n(value(&counts.directories), "directory", "directories"),
            n(value(&counts.symlinks), "symlink", "symlinks"),
            size(value(&counts.bytes)),
            n(value(&counts.blocks), "block", "blocks"),
            rate(value(&counts.read), took),
        );
        if value(&counts.salvaged) > 0 {
            out += &format!("salvaged {}\n", n(value(&counts.salvaged), "file", "files"));
        }
        let mut parts = vec![
            n(tally.damage, "damage", "damages"),
            n(tally.leftovers, "leftover of a crash", "leftovers of crashes"),
        ];
        if tally.repaired > 0 {
            parts.push(format!("{} repaired", tally.repaired));
        }
        parts.push(format!("{} not checked", tally.unchecked));
        parts.push(n(tally.notes, "note", "notes"));
        out + &parts.join(", ") + "\n"
    }
}

/// Bytes for a person.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut shown = bytes as f64;
    let mut unit = 0;
    while shown >= 1024.0 && unit + 1 < UNITS.len() {
        shown /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{shown:.1} {}", UNITS[unit]) }
}

fn rate(bytes: u64, took: Duration) -> String {
    format!("{:.1} s, {}/s", took.as_secs_f64(), size((bytes as f64 / took.as_secs_f64().max(0.001)) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_steer_the_terminal() {
        assert_eq!(printable("a/\u{1b}[31m\u{e9}\n".as_bytes()), "a/\\u{1b}[31m\u{e9}\\n");
        assert_eq!(printable(b"x\xff\xfey"), "x\\xff\\xfey");
        assert_eq!(printable(b""), ".");
    }

    #[test]
    fn blocks_are_told_as_ranges() {
        assert_eq!(block_list(std::slice::from_ref(&(3..4))), "block 3");
        assert_eq!(block_list(&[3..4, 5..10]), "blocks 3, 5-9");
        let many: Vec<_> = (0..30).map(|n| 2 * n..2 * n + 1).collect();
        assert!(block_list(&many).ends_with("38 and 10 more ranges"));
    }

    #[test]
    fn exit_codes_by_what_is_left() {
        let report = Report::default();
        assert_eq!(report.tally().exit(), None);
        report.add(Finding::new(Severity::Note, Kind::FileId, None, b"a", "twice"));
        assert_eq!(report.tally().exit(), None);
        report.add(Finding::new(Severity::Leftover, Kind::Temporary, None, b"b", "left"));
        assert_eq!(report.tally().exit(), Some(Exit::Damage));
        report.repaired(|finding| finding.kind == Kind::Temporary);
        assert_eq!(report.tally().exit(), Some(Exit::Repaired));
        report.add(Finding::new(Severity::Unchecked, Kind::Key, None, b"c", "the KMS is down"));
        assert_eq!(report.tally().exit(), Some(Exit::Unchecked));
        report.add(Finding::new(Severity::Damage, Kind::Block, None, b"d", "bad"));
        assert_eq!(report.tally().exit(), Some(Exit::Damage));
    }

    #[test]
    fn paths_that_are_no_text_keep_their_bytes() {
        let finding =
            Finding::new(Severity::Damage, Kind::Block, Some(b"\xff"), b"s", "bad").with_blocks(vec![2..5, 7..8]);
        let json = finding.json();
        assert_eq!(json["path_hex"], "ff");
        assert_eq!(json["blocks"], json!([[2, 4], [7, 7]]));
        assert_eq!(json["kind"], "block");
    }
}
