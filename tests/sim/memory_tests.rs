//! Memory that runs out, by chance: whatever thresholds are set, however wrong the expectations and however
//! bad the disk, a run ends, and what is missing in the end has failed by name.

use crate::cluster::Sim;
use crate::faults::Faults;
use crate::graphs::{self, Graph};
use crate::memory::{Failed, Memory, Most};
use crate::{are_usual_seeds, seeds};

/// Fetches come in pieces of 64 MiB: a few make a worker.
const LIMIT: u64 = 1 << 30;
const ALL: [Option<f64>; 4] = [Some(0.60), Some(0.70), Some(0.80), Some(0.95)];

fn memory() -> Memory {
    Memory {
        limits: vec![LIMIT],
        thresholds: ALL,
        disk: u64::MAX,
        disk_full_at: None,
        disk_speed: LIMIT / 10,
        usual: LIMIT / 50,
        sudden: None,
        giants: 0.0,
        declared: None,
    }
}

/// Runs one seed; what failed, and what was held.
fn run(seed: u64, graph: Graph, faults: Faults) -> (Vec<Failed>, Most) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut sim = Sim::new(seed, graph, faults);
        sim.run();
        (sim.check_memory_end(), sim.most())
    }));
    outcome.unwrap_or_else(|panic| {
        eprintln!("this was seed {seed}: replay it with HPCDAG_SIM_SEED={seed}");
        std::panic::resume_unwind(panic)
    })
}

fn random(seed: u64) -> Graph {
    graphs::random(&mut fastrand::Rng::with_seed(seed))
}

/// The thresholds that people set: all; no disk; only the first; none at all.
const SETS: [[Option<f64>; 4]; 4] =
    [ALL, [None, None, Some(0.80), Some(0.95)], [Some(0.60), None, None, None], [None; 4]];

/// What the most that a worker held may be, as a part of its limit, with all thresholds set and a disk that
/// works: what may be begun just below `pause` comes on top of it. That is two fetches from each of the
/// others, of 64 MiB or one result each, and in each slot a task with its result.
fn bound(memory: &Memory, workers: u32) -> f64 {
    let grown = memory.sudden.map_or(1.0, |(.., factor)| factor.max(1.0));
    let result = memory.usual as f64 * 1.5 * grown;
    let private = if memory.giants > 0.0 { 3.0 * LIMIT as f64 } else { result };
    let fetches = 2.0 * f64::from(workers - 1) * result.max(f64::from(64 << 20));
    0.80 + (fetches + 3.0 * (result + private)) / LIMIT as f64
}

/// The sum over all seeds, so that a test can say that what it is about has happened.
fn all(default: u64, graph: impl Fn(u64) -> Graph, faults: impl Fn(u64) -> Faults) -> (usize, Most) {
    let (mut failed, mut sum) = (0, Most::default());
    for seed in seeds(default) {
        let faults = faults(seed);
        let workers = faults.workers + faults.late_joiners;
        let memory = faults.memory.clone().expect("memory");
        let (names, most) = run(seed, graph(seed), faults);
        failed += names.len();
        sum.pauses += most.pauses;
        sum.spilled += most.spilled;
        sum.not_spilled += most.not_spilled;
        sum.ended += most.ended;
        sum.handed_back += most.handed_back;
        sum.total = most.total.max(sum.total);
        let sound =
            memory.disk == u64::MAX && memory.disk_full_at.is_none() && memory.disk_speed >= LIMIT / 10;
        if sound && memory.thresholds == ALL {
            let bound = bound(&memory, workers);
            assert!(most.total <= bound, "seed {seed}: {:.2} of the limit, at most {bound:.2}", most.total);
        }
    }
    println!("{failed} tasks failed by name, {sum:?}");
    (failed, sum)
}

#[test]
fn ordinary_tasks_pass_whatever_thresholds_are_set() {
    let faults = |seed: u64| Faults {
        losses: seed as u32 % 3,
        retirements: seed as u32 % 2,
        memory: Some(Memory { thresholds: SETS[seed as usize % 4], ..memory() }),
        ..Faults::default()
    };
    let (failed, _) = all(24, random, faults);
    assert_eq!(failed, 0);
}

#[test]
fn large_tasks_under_any_thresholds_end_or_fail_by_name() {
    let faults = |seed: u64| Faults {
        losses: seed as u32 % 3,
        late_joiners: seed as u32 % 2,
        memory: Some(Memory { thresholds: SETS[seed as usize / 2 % 4], usual: LIMIT / 6, ..memory() }),
        ..Faults::default()
    };
    let (_, most) = all(28, random, faults);
    assert!(!are_usual_seeds() || (most.pauses > 9 && most.spilled > 30 && most.handed_back > 0), "{most:?}");
}

/// Where what is cut from a load waits until it is of use, and for its turn.
#[test]
fn what_is_regrouped_is_regrouped_whatever_happens() {
    let usual = LIMIT / 24;
    let faults = |seed: u64| Faults {
        losses: seed as u32 % 3,
        late_joiners: seed as u32 % 2,
        retirements: seed as u32 / 2 % 2,
        memory: Some(Memory { usual, disk_speed: LIMIT, ..memory() }),
        ..Faults::default()
    };
    let graph = |seed: u64| graphs::regrouped(&mut fastrand::Rng::with_seed(seed), 45, usual);
    let (failed, most) = all(16, graph, faults);
    assert!(failed == 0 && (!are_usual_seeds() || most.spilled > 100), "{most:?}");
}

#[test]
fn a_task_larger_than_every_worker_fails_and_the_others_do_not() {
    for declared in [false, true] {
        let memory = Memory { giants: if declared { 0.0 } else { 0.05 }, ..memory() };
        for seed in seeds(12) {
            let memory =
                Memory { declared: (declared && seed % 2 == 0).then_some(2 * LIMIT), ..memory.clone() };
            let everyone = memory.declared.is_some();
            let (names, _) =
                run(seed, random(seed), Faults { memory: Some(memory.clone()), ..Faults::default() });
            let deserved = |&((f, i), _): &Failed| everyone || memory.is_giant(f, i);
            assert!(names.iter().all(deserved), "seed {seed}: {names:?}");
            assert!(!everyone || !names.is_empty(), "seed {seed}: all declare more than there is");
        }
    }
}

#[test]
fn what_one_worker_has_no_room_for_goes_to_a_larger_one() {
    let mut ended = 0;
    for seed in seeds(12) {
        // Up to all of the smaller, an eighth of the larger.
        let memory = Memory {
            limits: vec![LIMIT / 8, LIMIT],
            sudden: Some((0, 3, 4.0)),
            disk_speed: LIMIT,
            ..memory()
        };
        let graph = graphs::chain(12, 2);
        let (names, most) =
            run(seed, graph, Faults { workers: 2, memory: Some(memory), ..Faults::default() });
        // Unless the larger one was not there yet.
        let early = |(_, why): &Failed| why.ends_with("the largest limit is 128 MiB");
        assert!(names.iter().all(early), "seed {seed}: {names:?}");
        ended += most.ended;
    }
    assert!(!are_usual_seeds() || ended > 2, "{ended}");
}

#[test]
fn expectations_may_be_wrong() {
    for factor in [100.0, 0.01] {
        let faults = |seed: u64| Faults {
            retirements: seed as u32 % 2,
            memory: Some(Memory {
                usual: if factor > 1.0 { LIMIT / 400 } else { LIMIT / 10 },
                sudden: Some((seed as u32 % 3, 4, factor)),
                thresholds: SETS[seed as usize / 3 % 4],
                ..memory()
            }),
            ..Faults::default()
        };
        let (_, most) = all(16, random, faults);
        assert!(!are_usual_seeds() || factor < 1.0 || most.ended > 0, "{most:?}");
    }
}

#[test]
fn a_disk_may_fill_or_be_slow() {
    let faults = |seed: u64| {
        let (fills, slow) = (seed % 3 == 2, seed.is_multiple_of(2));
        let after = std::time::Duration::from_millis(seed % 40);
        let memory = Memory {
            usual: LIMIT / 12,
            disk: if seed % 3 == 1 { LIMIT / 4 } else { u64::MAX },
            disk_full_at: fills.then_some(after),
            disk_speed: if slow { LIMIT / 500 } else { LIMIT / 10 },
            ..memory()
        };
        let losses = seed as u32 % 2;
        Faults { losses, retirements: losses, memory: Some(memory), ..Faults::default() }
    };
    let (_, most) = all(28, random, faults);
    assert!(!are_usual_seeds() || (most.not_spilled > 5 && most.pauses > 9), "{most:?}");
}
