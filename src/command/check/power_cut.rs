//! What power cuts leave, checked and repaired, and cuts while a repair runs (`docs/CRASH.md`).

use std::collections::BTreeSet;
use std::path::Path;

use crate::backing::tap::{self, Change};
use crate::format::volume::NameMode;
use crate::fs::power_cut::disk::{Cut, Disk};
use crate::fs::power_cut::rig;
use crate::fs::power_cut::workloads::{self, Workload};
use crate::fs::power_cut::{Found, FoundObject, Random, State, World, runs};

use super::report::{Kind, Severity};
use super::*;

/// Files that a mount cannot open or read as a whole, by their ids, with the blocks that it cannot read; none: all.
type Unreadable = BTreeSet<(u64, Option<u64>)>;

fn unreadable(found: &Found) -> Unreadable {
    let mut out = Unreadable::new();
    for object in found.names.values() {
        match object {
            FoundObject::File { id, seen: None } => {
                out.insert((*id, None));
            }
            FoundObject::File { id, seen: Some(seen) } => {
                let blocks = seen.chunks(4096).zip(0..).filter(|(bytes, _)| bytes[0].is_none());
                out.extend(blocks.map(|(_, block)| (*id, Some(block))));
            }
            FoundObject::Dir | FoundObject::Link(_) => {}
        }
    }
    out
}

/// What a check calls damage in files; anything else that it calls damage is an error.
fn damaged(report: &Report, found: &Found) -> Result<Unreadable, String> {
    let mut out = Unreadable::new();
    for finding in report.findings().iter() {
        let id = || match finding.path.as_ref().and_then(|path| found.names.get(path)) {
            Some(FoundObject::File { id, .. }) => Ok(*id),
            _ => Err(finding.text()),
        };
        match (finding.severity, finding.kind) {
            (Severity::Damage, Kind::Block | Kind::Slot | Kind::Missing) => {
                let id = id()?;
                out.extend(finding.blocks.iter().cloned().flatten().map(|block| (id, Some(block))));
            }
            (Severity::Damage, Kind::Header | Kind::Record | Kind::Short | Kind::Cut) => {
                out.insert((id()?, None));
            }
            // Its blocks are told, too.
            (Severity::Damage, Kind::Map) => {}
            (Severity::Damage | Severity::Unchecked, _) => return Err(finding.text()),
            (Severity::Leftover | Severity::Note, _) => {}
        }
    }
    // Of a file that cannot be opened, check tells blocks, too.
    let whole: Vec<_> = out.iter().filter(|(_, block)| block.is_none()).map(|(id, _)| *id).collect();
    out.retain(|(id, block)| block.is_none() || !whole.contains(id));
    Ok(out)
}

/// Repairs what is there. Then all that was promised is there, and a second check finds what a mount cannot read, and
/// nothing else. Gives the log of the repair's changes.
fn repair(state: &State<'_>, at: &Path) -> Result<Vec<Change>, String> {
    let setup = &state.story.setup;
    tap::record();
    let repaired = rig::check(at, setup, true);
    let log = tap::take();
    let report = rig::check(at, setup, false);
    if let Some(left) = report.findings().iter().find(|finding| finding.severity == Severity::Leftover) {
        return Err(format!("the repair left this: {}\nit said:\n{}", left.text(), repaired.text()));
    }
    let found = rig::look(at, setup)?;
    state.judge_found(&found)?;
    damaged(&repaired, &found).map_err(|e| format!("the repair found: {e}"))?;
    let (told, seen) = (damaged(&report, &found)?, unreadable(&found));
    if told != seen {
        return Err(format!("check calls {told:?} damage, and a mount cannot read {seen:?}"));
    }
    Ok(log)
}

/// A repair of what a cut left; then the same, cut off at `cuts` random points, and run again.
fn repaired(state: &State<'_>, rng: &mut Random, cuts: usize, counts: &mut (usize, usize)) -> Result<(), String> {
    let dir = state.put();
    let mut disk = Disk::new(rig::ino(dir.path()));
    rig::as_changes(dir.path()).iter().for_each(|change| disk.apply(change));
    let log = repair(state, dir.path()).map_err(|e| format!("repaired: {e}"))?;
    counts.0 += 1;
    let stops: BTreeSet<usize> = (0..cuts).map(|_| rng.below(log.len() as u64 + 1) as usize).collect();
    let mut at = 0;
    for stop in stops {
        log[at..stop].iter().for_each(|change| disk.apply(change));
        at = stop;
        let cut = Cut::Any(Random(rng.next()), [5, 50, 95][rng.below(3) as usize]);
        let tell =
            |e: String| format!("a repair that was cut off after {stop} of {} changes ({cut:?}): {e}", log.len());
        let dir = rig::fresh_dir();
        disk.cut(&cut, dir.path());
        state.judge_found(&rig::look(dir.path(), &state.story.setup)?).map_err(tell)?;
        let dir = rig::fresh_dir();
        disk.cut(&cut, dir.path());
        repair(state, dir.path()).map_err(|e| tell(format!("repaired again: {e}")))?;
        counts.1 += 1;
    }
    Ok(())
}

/// `kmsfs check --repair` can be cut off at any point and run again.
#[test]
fn repairs_of_what_cuts_left_and_cuts_amid_repairs() {
    for Workload { name, setup, work } in workloads::all() {
        let mut world = World::new(&setup);
        work(&mut world);
        let mut rng = Random(7);
        let (mut counts, n) = ((0, 0), runs() as usize);
        let story = world.end();
        // One state of some moments; KMSFS_POWER_CUTS=n: more.
        let judged = story.each_state(0, n.saturating_sub(1), 1, &mut |state| {
            if n == 1 && rng.below(5) > 0 {
                return Ok(());
            }
            repaired(state, &mut rng, 1 + n / 2, &mut counts)
        });
        judged.unwrap_or_else(|e| panic!("{name}: {e}"));
        let names = if setup.names == NameMode::Plain { "plain" } else { "encrypted" };
        println!("{name}, {names} names: {} repairs, {} cut off and run again", counts.0, counts.1);
    }
}
