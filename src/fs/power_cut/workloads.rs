//! What programs do, and cuts at every moment of it.

use super::rig::Setup;
use super::*;

/// Runs a workload and judges it; says how much that was.
fn judge_workload(name: &str, setup: &Setup, work: impl Fn(&mut World)) {
    let mut world = World::new(setup);
    work(&mut world);
    let count = world.end().judge(64, 12 * runs() as usize, 1);
    println!("{name}: {} cuts in {} states, all states of {}", count.points, count.states, count.exhausted);
}

#[test]
fn an_append_log_with_fsync() {
    judge_workload("append log", &Setup::safe(), |world| {
        world.create("log");
        for n in 0..12 {
            world.append("log", [100, 3000, 4096, 9000][n % 4]);
            world.fsync("log");
        }
    });
}

#[test]
fn random_overwrites_with_fsync() {
    judge_workload("random overwrites", &Setup::safe(), |world| {
        world.create("data");
        world.write("data", 0, 300_000);
        world.fsync("data");
        let mut random = Random(3);
        for n in 0..14 {
            world.write("data", random.below(290_000) as usize, [1, 4096, 600, 9000][n % 4]);
            if n % 3 == 2 {
                world.fsync("data");
            }
        }
    });
}
