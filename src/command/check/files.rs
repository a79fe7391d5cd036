//! One regular file: header, key, record, map, length, slots and blocks.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::content::ContentError;
use crate::content::examine::{Buffer, Depth, Exam, Head, Trouble, Troubles, View, look_at_head};
use crate::durable::{Redo, Sessions};
use crate::format::file_header::FileHeader;
use crate::format::layout::{BLOCK, blocks, plain_len, stored_len};
use crate::fs::open_files::usable_wrappings;
use crate::keys::DataKey;

use super::Checker;
use super::report::{Finding, Kind, Severity, count};
use super::walk::{Task, Where, head_trouble};

/// Files with more blocks than these (64 MiB) are read by several threads, one file at a time.
const LARGE: u64 = (64 << 20) / BLOCK;
/// On a mounted volume: how long to wait before what is wrong is looked at again.
const LOOKS: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];
/// After so many calls in a row that could not ask the KMS, it is left alone for a while: each may take long to fail.
const PATIENCE: u32 = 3;
const PAUSE: Duration = Duration::from_secs(20);

/// Calls in a row that could not ask the KMS.
#[derive(Debug, Default)]
pub struct Outage {
    in_a_row: u32,
    /// Not before this, and what the last call said.
    until: Option<(Instant, String)>,
}

/// What a look at a file gave.
#[derive(Default)]
pub struct Looked {
    pub findings: Vec<Finding>,
    /// Slots have to be mended before the session list may be emptied.
    mend_slots: bool,
    blocks: u64,
    bytes: u64,
    /// Blocks that cannot be read, and the size of the file: what a copy of it lacks.
    pub holes: Vec<std::ops::Range<u64>>,
    pub size: u64,
    /// Whether there was anything to read at all.
    pub readable: bool,
}

impl Looked {
    fn needs_second_look(&self) -> bool {
        self.findings.iter().any(|finding| matches!(finding.severity, Severity::Damage | Severity::Leftover))
    }

    fn needs_repair(&self) -> bool {
        self.mend_slots || self.findings.iter().any(|finding| finding.severity == Severity::Leftover)
    }
}

/// Where plaintext goes while a file is looked at: from several threads, at any place.
pub type Sink<'a> = &'a (dyn Fn(u64, &[u8]) + Sync);

const NOWHERE: Sink<'static> = &|_, _| {};

impl Checker<'_> {
    pub fn file(&self, task: Task) {
        let Task { at, file, stat, head, out } = task;
        let mut looked = match (&self.salvage, &out) {
            (Some(salvage), Some(out)) => salvage.file(self, out, &file, &stat, &at, &head),
            _ => self.look(self.volume.view(), &at, file.as_fd(), &head, NOWHERE),
        };
        if self.how.live {
            looked = self.look_again(looked, &at, file.as_fd());
        }
        if self.how.repair && looked.needs_repair() {
            looked = self.mend_file(looked, &at, file.as_fd());
        }
        count(&self.report.counts.blocks, looked.blocks);
        count(&self.report.counts.bytes, looked.bytes);
        self.report.extend(looked.findings);
    }

    /// On a mounted volume a file may be in writing: what is wrong has to be so for a while.
    fn look_again(&self, looked: Looked, at: &Where, file: BorrowedFd<'_>) -> Looked {
        let mut looked = looked;
        for wait in LOOKS {
            if !looked.needs_second_look() {
                break;
            }
            std::thread::sleep(wait);
            if crate::backing::stat(file).is_ok_and(|stat| stat.st_nlink == 0) {
                return Looked::default();
            }
            // Sessions and redo files as they are now.
            let keys = &self.volume.keys;
            let Ok(sessions) = Sessions::open(self.root, keys.state.clone(), self.state_unknown) else { continue };
            let Ok(redo) = Redo::new(self.root, sessions.crashed()) else { continue };
            let view = View { keys, sessions: &sessions, redo: &redo };
            let again = self.look(view, at, file, &look_at_head(view, file), NOWHERE);
            looked = Looked { findings: still_there(&looked.findings, again.findings), ..again };
        }
        // A page that waits is what a mount does for durability.
        looked.findings.retain(|finding| finding.kind != Kind::RedoPage);
        looked
    }

    fn mend_file(&self, before: Looked, at: &Where, file: BorrowedFd<'_>) -> Looked {
        let redo = before.findings.iter().any(|finding| finding.kind == Kind::RedoPage);
        let mended = self.mend(file, before.mend_slots, redo);
        let view = self.volume.view();
        let mut after = self.look(view, at, file, &look_at_head(view, file), NOWHERE);
        let still: Vec<Kind> = after.findings.iter().map(|finding| finding.kind).collect();
        let mended_findings = before.findings.into_iter().filter(|finding| finding.severity == Severity::Leftover);
        after.findings.extend(
            mended_findings
                .filter(|finding| !still.contains(&finding.kind))
                .map(|finding| Finding { repaired: true, ..finding }),
        );
        if let Err(e) = mended {
            self.could_not_settle();
            after.findings.push(at.finding(Severity::Unchecked, Kind::Repair, format!("could not be repaired: {e}")));
        } else if after.findings.iter().any(|finding| finding.severity == Severity::Leftover && !finding.repaired) {
            self.could_not_settle();
        }
        after
    }

    /// Looks at a file from its first page on. `sink` gets the plaintext of what is readable.
    pub fn look(
        &self,
        view: View<'_>,
        at: &Where,
        file: BorrowedFd<'_>,
        head: &Result<Option<Head>, ContentError>,
        sink: Sink<'_>,
    ) -> Looked {
        let mut looked = Looked::default();
        let head = match head {
            Ok(None) => {
                looked.readable = true;
                return looked;
            }
            Ok(Some(head)) => head,
            Err(e) => {
                let (severity, kind) = head_trouble(e);
                looked.findings.push(at.finding(severity, kind, e.to_string()));
                return looked;
            }
        };
        looked.size = plain_len(head.stored_len);
        looked.bytes = looked.size;
        let Some((counts, header)) = head.header() else {
            let why = head.copies[0].as_ref().err().map(ToString::to_string).unwrap_or_default();
            looked.findings.push(at.finding(
                Severity::Damage,
                Kind::Header,
                format!("both copies of the header: {why}"),
            ));
            return looked;
        };
        if let Err(e) = &head.copies[1 - counts] {
            let cause = format!("copy {} of the header: {e}; the other copy serves", 1 - counts);
            looked.findings.push(at.finding(Severity::Leftover, Kind::HeaderCopy, cause));
        }
        let Some(keys) = self.keys.as_ref() else {
            if stored_len(looked.size) != head.stored_len {
                let cause = format!("the stored length {} is that of no file", head.stored_len);
                looked.findings.push(at.finding(Severity::Leftover, Kind::Length, cause));
            }
            return looked;
        };
        let key = match self.fetch(keys, header) {
            Ok(key) => key,
            Err(cause) => {
                looked.findings.push(at.finding(Severity::Unchecked, Kind::Key, cause));
                return looked;
            }
        };
        // Exposed: the file's keys are derived from it.
        let exam = match Exam::new(view, file, head, key.secret()) {
            Ok(exam) => exam,
            Err(e) => {
                looked.findings.push(at.finding(Severity::Unchecked, Kind::Key, e.to_string()));
                return looked;
            }
        };
        looked.readable = true;
        if let Err(e) = self.look_inside(&exam, at, sink, &mut looked) {
            looked.findings.push(at.finding(Severity::Unchecked, Kind::Unreadable, e.to_string()));
        }
        looked
    }

    fn look_inside(
        &self,
        exam: &Exam<'_>,
        at: &Where,
        sink: Sink<'_>,
        looked: &mut Looked,
    ) -> Result<(), ContentError> {
        let mut troubles = self.look_at_blocks(exam, sink)?;
        let there = exam.held();
        let mut size = exam.size;
        let tell = |severity, kind, cause: String| at.finding(severity, kind, cause);
        match exam.record {
            None => looked.findings.push(tell(
                Severity::Damage,
                Kind::Record,
                "the file's record does not verify: its size cannot be told for sure".into(),
            )),
            Some(record) => {
                if exam.from_the_future {
                    self.state_was_put_back(record.session);
                }
                for (region, m) in exam.bad_maps()? {
                    let cause = format!("record {m} of the map of region {region} does not verify");
                    looked.findings.push(tell(Severity::Damage, Kind::Map, cause));
                }
                if there < size && (!exam.unsettled || there < record.synced) {
                    let cut = there / BLOCK..blocks(size);
                    let cause = format!("the file was cut: it holds {there} of {size} bytes");
                    looked.findings.push(tell(Severity::Damage, Kind::Cut, cause).with_blocks(vec![cut.clone()]));
                    troubles.add(cut, Trouble::Cut);
                } else {
                    if exam.unsettled {
                        size = settled_size(size.min(there), record.synced, &mut troubles);
                    }
                    if size < record.size {
                        let cause = format!(
                            "a crash took bytes that were never synced: the file has {size} of {} bytes",
                            record.size
                        );
                        looked.findings.push(tell(Severity::Leftover, Kind::LostEnd, cause));
                    } else if exam.stored_len != stored_len(size) {
                        let cause =
                            format!("the stored length is {}, for this size {}", exam.stored_len, stored_len(size));
                        looked.findings.push(tell(Severity::Leftover, Kind::Length, cause));
                    } else if !exam.tail_is_empty()? {
                        looked.findings.push(tell(
                            Severity::Note,
                            Kind::Tail,
                            "there are bytes behind the last page".into(),
                        ));
                    }
                }
                let unsure = troubles.blocks.iter().any(|(_, trouble)| trouble.is_readable());
                looked.mend_slots =
                    unsure || troubles.unsaid > 0 || !record.newest || (!exam.newest && troubles.doubles > 0);
            }
        }
        looked.size = size;
        looked.bytes = size;
        looked.blocks = troubles.seen;
        looked.holes = troubles.unreadable().collect();
        looked.findings.extend(block_findings(&troubles, exam.newest, at));
        Ok(())
    }

    fn look_at_blocks(&self, exam: &Exam<'_>, sink: Sink<'_>) -> Result<Troubles, ContentError> {
        let end = exam.blocks_there();
        let next = Mutex::new(0);
        let work = |buf: &mut Buffer| {
            let mut found = Troubles::default();
            loop {
                let part = {
                    let mut next = next.lock();
                    let part = exam.next_part(*next, end, &mut found)?;
                    *next = part.end;
                    part
                };
                if part.is_empty() {
                    return Ok(found);
                }
                let read = if self.how.depth == Depth::Blocks { (part.end - part.start) * BLOCK } else { BLOCK };
                exam.look(part, self.how.depth, buf, &mut found, &mut |block, plain| {
                    sink(block * BLOCK, plain);
                    Ok(())
                })?;
                count(&self.report.counts.read, read);
            }
        };
        thread_local! {
            static BUFFER: RefCell<Buffer> = RefCell::default();
        }
        if end < LARGE || self.how.threads < 2 {
            return BUFFER.with_borrow_mut(work);
        }
        let _one_at_a_time = self.large.lock();
        std::thread::scope(|scope| {
            let helpers: Vec<_> = (1..self.how.threads).map(|_| scope.spawn(|| work(&mut Buffer::default()))).collect();
            let mut all = BUFFER.with_borrow_mut(work)?;
            for helper in helpers {
                match helper.join() {
                    Ok(found) => all.join(found?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            all.join(Troubles::default());
            Ok(all)
        })
    }

    /// Starts to fetch a key that will be wanted soon.
    pub fn prefetch(&self, header: &FileHeader) {
        if let Some(keys) = &self.keys
            && let Ok(wrapped) = usable_wrappings(&header.wrappings)
            && self.outage.lock().until.is_none()
        {
            keys.prefetch(&wrapped[0]);
        }
    }

    pub fn fetch(&self, keys: &Arc<crate::keys::Keys>, header: &FileHeader) -> Result<Arc<DataKey>, String> {
        let wrapped = usable_wrappings(&header.wrappings).map_err(|e| e.to_string())?;
        if let Some(key) = wrapped.iter().find_map(|wrapped| keys.cached(wrapped)) {
            return Ok(key);
        }
        if let Some((until, said)) = &self.outage.lock().until
            && Instant::now() < *until
        {
            return Err(format!("its key was not asked for, since the KMS does not answer: {said}"));
        }
        let mut last = String::new();
        for wrapped in &wrapped {
            let fetched = self.runtime.block_on(keys.fetch(wrapped));
            let mut outage = self.outage.lock();
            match fetched {
                Ok(key) => {
                    *outage = Outage::default();
                    return Ok(key);
                }
                Err(e) => {
                    last = format!("its key cannot be had: {e}");
                    outage.in_a_row = if e.is_outage() { outage.in_a_row + 1 } else { 0 };
                    if outage.in_a_row >= PATIENCE {
                        outage.until = Some((Instant::now() + PAUSE, e.to_string()));
                    }
                }
            }
        }
        Err(last)
    }
}

/// Of what is found now, what was found before: the same kind, in the same blocks. What two looks see of a file in writing
/// is not the same.
fn still_there(before: &[Finding], now: Vec<Finding>) -> Vec<Finding> {
    let still = |finding: Finding| {
        let same: Vec<&Finding> = before.iter().filter(|old| old.kind == finding.kind).collect();
        if finding.blocks.is_empty() {
            return (!same.is_empty()).then_some(finding);
        }
        let both = |range: &std::ops::Range<u64>| {
            let old = same.iter().flat_map(|old| &old.blocks);
            let (start, end) = (range.start, range.end);
            old.map(|old| old.start.max(start)..old.end.min(end)).filter(|both| !both.is_empty()).collect::<Vec<_>>()
        };
        let blocks: Vec<_> = finding.blocks.iter().flat_map(both).collect();
        (!blocks.is_empty()).then_some(Finding { blocks, ..finding })
    };
    now.into_iter().filter_map(still).collect()
}

/// Section 7: while a file of a session that did not end has an unreadable last block behind what was synced, it ends
/// before that block. What is cut off so is no trouble any more.
fn settled_size(size: u64, synced: u64, troubles: &mut Troubles) -> u64 {
    let mut size = size;
    while size > synced {
        let last = (size - 1) / BLOCK;
        match troubles.blocks.last_mut() {
            // It may be readable the next time.
            Some((_, Trouble::Unread)) => break,
            Some((range, trouble)) if !trouble.is_readable() && range.contains(&last) => {
                size = (last * BLOCK).max(synced);
                if size <= last * BLOCK {
                    range.end = last;
                }
                if range.is_empty() {
                    troubles.blocks.pop();
                }
            }
            Some((range, _)) if range.start > last => drop(troubles.blocks.pop()),
            _ => break,
        }
    }
    size
}

fn block_findings(troubles: &Troubles, newest: bool, at: &Where) -> Vec<Finding> {
    let kinds = [
        (Trouble::Unverified, Severity::Damage, Kind::Block, "data does not verify: the page or its tag was changed"),
        (Trouble::Slot, Severity::Damage, Kind::Slot, "slots that no writer makes"),
        (Trouble::Missing, Severity::Damage, Kind::Missing, "slots without a version, though their group is complete"),
        (Trouble::Unread, Severity::Damage, Kind::ReadError, "the backing file system does not read these"),
        (
            Trouble::InRedo,
            Severity::Leftover,
            Kind::RedoPage,
            "readable: pages wait in the redo file of a session that did not end",
        ),
    ];
    let older = if newest {
        (Trouble::Older, Severity::Damage, Kind::Older, "put back by one version, which no crash explains")
    } else {
        (Trouble::Older, Severity::Leftover, Kind::Older, "readable as they were before a change that a crash cut off")
    };
    let of = |wanted: Trouble| -> Vec<_> {
        troubles.blocks.iter().filter(|(_, trouble)| *trouble == wanted).map(|(range, _)| range.clone()).collect()
    };
    let all =
        kinds.into_iter().chain([older]).map(|(trouble, severity, kind, cause)| (of(trouble), severity, kind, cause));
    all.filter(|(blocks, ..)| !blocks.is_empty())
        .map(|(blocks, severity, kind, cause)| at.finding(severity, kind, cause).with_blocks(blocks))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_in_two_looks_is_wrong() {
        let finding = |kind, blocks: &[std::ops::Range<u64>]| {
            Finding::new(Severity::Damage, kind, None, b"f", "bad").with_blocks(blocks.to_vec())
        };
        let before = [finding(Kind::Block, &[3..10, 20..21]), finding(Kind::Length, &[])];
        let now = vec![
            finding(Kind::Block, &[1..4, 8..12, 15..16]),
            finding(Kind::Slot, &[4..5, 8..9]),
            finding(Kind::Length, &[]),
            finding(Kind::Record, &[]),
        ];
        let still = still_there(&before, now);
        assert_eq!(still.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [Kind::Block, Kind::Length]);
        assert_eq!(still[0].blocks, [3..4, 8..10]);
    }

    #[test]
    fn an_unreadable_end_behind_what_was_synced_is_lost_in_a_crash() {
        let troubles = |ranges: &[(std::ops::Range<u64>, Trouble)]| {
            let mut all = Troubles::default();
            ranges.iter().for_each(|(range, trouble)| all.add(range.clone(), *trouble));
            all
        };
        // Blocks 8 and 9 of ten are torn, nothing behind block 5 was synced.
        let mut torn = troubles(&[(2..3, Trouble::Unverified), (8..10, Trouble::Missing)]);
        assert_eq!(settled_size(10 * BLOCK - 5, 5 * BLOCK, &mut torn), 8 * BLOCK);
        assert_eq!(torn.blocks, [(2..3, Trouble::Unverified)]);
        // What was synced stays, and is damage.
        let mut torn = troubles(&[(8..10, Trouble::Missing)]);
        assert_eq!(settled_size(10 * BLOCK, 9 * BLOCK, &mut torn), 9 * BLOCK);
        assert_eq!(torn.blocks, [(8..9, Trouble::Missing)]);
        let mut older = troubles(&[(9..10, Trouble::Older)]);
        assert_eq!(settled_size(10 * BLOCK, 0, &mut older), 10 * BLOCK);
    }
}
