//! Random operations on one file, cuts, and going on with what the cut has left: the executable model's run, on the real
//! code. What fails is made small, and told as the lines of a test.

use super::*;

/// Where operations go.
const FAR: u64 = 600_000;

/// An operation on the file `f`. [`Op::line`] is what it looks like in a test.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    Write(usize, usize),
    Append(usize),
    Fsync,
    SetLen(usize),
    Punch(usize, usize),
    EndRounds,
    Rotate,
    Close,
}

impl Op {
    fn random(rng: &mut Random) -> Self {
        let off = match rng.below(4) {
            0 => rng.below(20_000),
            1 => 115_000 + rng.below(15_000),
            2 => rng.below(150) * 4096,
            _ => rng.below(FAR),
        } as usize;
        match rng.below(20) {
            0..10 => {
                let len = [1, 100, 4096, 8192, 1 + rng.below(10_000), 70_000][rng.below(6) as usize] as usize;
                if rng.below(3) == 0 { Self::Append(len) } else { Self::Write(off, len) }
            }
            10..13 => Self::Fsync,
            13..15 => Self::SetLen(if rng.below(5) == 0 { 0 } else { off }),
            15 => Self::Punch(off / 4096 * 4096, 4096 * (1 + rng.below(4)) as usize),
            16..18 => Self::EndRounds,
            18 => Self::Rotate,
            _ => Self::Close,
        }
    }

    /// False where the file cannot be worked on any more: damage of an earlier cut may forbid it.
    fn run(&self, world: &mut World) -> bool {
        match *self {
            Self::Write(off, len) => return world.may_write("f", off, len),
            Self::Append(len) => return world.may_write("f", world.files[0].now.len().min(FAR as usize), len),
            Self::Fsync => world.fsync("f"),
            Self::SetLen(len) => {
                if world.rig.set_len("f", len as u64).is_err() {
                    return false;
                }
                world.files[0].set_len(len);
                world.did(format!("truncate {len}"));
            }
            Self::Punch(off, len) => world.punch("f", off, len),
            Self::EndRounds => world.end_rounds(),
            Self::Rotate => world.rotate(),
            Self::Close => world.close("f"),
        }
        true
    }

    fn line(&self) -> String {
        match self {
            Self::Write(off, len) => format!("world.write(\"f\", {off}, {len});"),
            Self::Append(len) => format!("world.append(\"f\", {len});"),
            Self::Fsync => "world.fsync(\"f\");".into(),
            Self::SetLen(len) => format!("world.set_len(\"f\", {len});"),
            Self::Punch(off, len) => format!("world.punch(\"f\", {off}, {len});"),
            Self::EndRounds => "world.end_rounds();".into(),
            Self::Rotate => "world.rotate();".into(),
            Self::Close => "world.close(\"f\");".into(),
        }
    }

    /// The same with smaller numbers, the smallest first.
    fn smaller(&self) -> Vec<Self> {
        let numbers = |n: usize| -> Vec<usize> {
            [0, 1, 4096, n / 2, n / 4096 * 4096, n.saturating_sub(4096)].into_iter().filter(|m| *m < n).collect()
        };
        let two = |a: usize, b: usize, op: fn(usize, usize) -> Self| -> Vec<Self> {
            let first = numbers(a).into_iter().map(|a| op(a, b));
            first.chain(numbers(b).into_iter().filter(|b| *b > 0).map(|b| op(a, b))).collect()
        };
        match *self {
            Self::Write(off, len) => two(off, len, Self::Write),
            Self::Punch(off, len) => two(off, len, Self::Punch),
            Self::Append(len) => numbers(len).into_iter().filter(|len| *len > 0).map(Self::Append).collect(),
            Self::SetLen(len) => numbers(len).into_iter().map(Self::SetLen).collect(),
            Self::Fsync | Self::EndRounds | Self::Rotate | Self::Close => Vec::new(),
        }
    }
}

/// What one run does: operations on a new file, a cut, operations on what it left, and so on.
#[derive(Clone, Debug)]
struct Plan {
    parts: Vec<Vec<Op>>,
    seed: u64,
}

impl Plan {
    fn random(seed: u64) -> Self {
        let rng = &mut Random(seed);
        let parts = (0..3).map(|_| (0..2 + rng.below(12)).map(|_| Op::random(rng)).collect()).collect();
        Self { parts, seed }
    }

    /// Judges cuts at every change, `states` of them beside the extremes; then one cut to go on with.
    fn run(&self, setup: &rig::Setup, states: usize) -> Result<(), String> {
        let mut rng = Random(!self.seed);
        let mut world = World::new(setup);
        world.create("f");
        for (depth, part) in (1u8..).zip(&self.parts) {
            let _ = part.iter().all(|op| op.run(&mut world));
            let story = world.end();
            let mut disk = Disk::new(story.root);
            story.before.iter().chain(&story.log).for_each(|change| disk.apply(change));
            story.each_state(states.min(8), states, self.seed, &mut |state| state.judge())?;
            let dir = rig::fresh_dir();
            disk.cut(&Cut::Any(Random(rng.next()), [5, 50, 95][rng.below(3) as usize]), dir.path());
            let found = rig::look(dir.path(), setup)?;
            let Some(FoundObject::File { seen: Some(seen), .. }) = found.names.get(&b"f"[..]) else { return Ok(()) };
            let mut promise = Promise::default();
            promise.restart(seen);
            let names = Names::from([(b"f".to_vec(), Object::File(0))]);
            world = World::over(rig::Rig::over(dir, setup), names, vec![promise]);
            // Values that the part before did not write.
            world.value = 80 * depth;
        }
        Ok(())
    }

    /// As [`Self::run`]; an operation that panics is an error, too.
    fn fails(&self, setup: &rig::Setup, states: usize) -> Option<String> {
        let run = std::panic::catch_unwind(|| self.run(setup, states));
        run.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            Err(said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
        })
        .err()
    }

    /// The smallest plan found that fails still, at most `looks` looks away.
    fn shrink(self, setup: &rig::Setup, states: usize, mut looks: usize) -> Self {
        let mut best = self;
        loop {
            let next = best.smaller().into_iter().find(|plan| {
                looks = looks.saturating_sub(1);
                looks > 0 && plan.fails(setup, states).is_some()
            });
            match next {
                Some(plan) => best = plan,
                None => return best,
            }
        }
    }

    /// Plans with less in them, the least first.
    fn smaller(&self) -> Vec<Self> {
        let mut out = Vec::new();
        let with = |part: usize, ops: Vec<Op>| {
            let mut plan = self.clone();
            plan.parts[part] = ops;
            plan
        };
        for n in 1..self.parts.len() {
            out.push(Self { parts: self.parts[..n].to_vec(), seed: self.seed });
        }
        for (p, part) in self.parts.iter().enumerate() {
            let mut size = part.len().div_ceil(2);
            while size > 0 {
                for from in (0..part.len()).step_by(size) {
                    out.push(with(p, [&part[..from], &part[(from + size).min(part.len())..]].concat()));
                }
                size /= 2;
            }
        }
        for (p, part) in self.parts.iter().enumerate() {
            for (n, op) in part.iter().enumerate() {
                for op in op.smaller() {
                    let mut ops = part.clone();
                    ops[n] = op;
                    out.push(with(p, ops));
                }
            }
        }
        out
    }

    /// As the body of a test.
    fn text(&self) -> String {
        let part = |ops: &Vec<Op>| ops.iter().map(|op| format!("    {}\n", op.line())).collect::<String>();
        let parts: Vec<_> = self.parts.iter().map(part).collect();
        format!("world.create(\"f\");\n{}", parts.join("    // a cut, and on with what it left\n"))
    }
}

/// After a power cut, bytes that were fsynced read as fsynced or as written later.
#[test]
fn random_operations_and_cuts() {
    // KMSFS_POWER_CUTS=n makes n times as many runs.
    let first = std::env::var("KMSFS_POWER_CUT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let setup = rig::Setup::safe();
    for seed in first..first + 60 * runs() {
        let plan = Plan::random(seed);
        if plan.fails(&setup, 1).is_some() {
            let small = plan.shrink(&setup, 4, 2000);
            let error = small.fails(&setup, 4).unwrap_or_else(|| "fails by chance only".into());
            panic!("seed {seed}, made small:\n{}\n{error}", small.text());
        }
    }
}

/// What is found can be made small: with `fast`, an overwrite of what was fsynced.
#[test]
fn failures_are_made_small() {
    let fast = rig::Setup { durability: crate::durable::Durability::Fast, ..rig::Setup::safe() };
    let found = (0..).map(Plan::random).find(|plan| plan.fails(&fast, 4).is_some()).expect("fast tears blocks");
    let small = found.shrink(&fast, 4, 400);
    let ops: Vec<_> = small.parts.concat();
    assert!(ops.len() <= 4 && ops.contains(&Op::Fsync), "{}", small.text());
    assert!(small.text().contains("world.fsync(\"f\");"), "{}", small.text());
}
