//! Simulation: the real scheduler core and real worker cores over virtual time and a virtual network, with
//! seeded delays, failures and losses. What has to hold is in `checks`; docs/reliability.md tells all of it.
//!
//! `HPCDAG_SIM_SEED=n` replays one seed; `HPCDAG_SIM_SEEDS=n` runs so many instead of the default, from
//! `HPCDAG_SIM_FIRST` on.

mod checks;
mod clients;
mod cluster;
mod deadlocks;
mod faults;
mod graphs;
mod memory;
mod memory_tests;
mod nodes;
mod sabotage;
mod sabotage_tests;
mod shapes;
mod stage;
mod trouble;
#[path = "../support/unpack.rs"]
mod unpack;

use cluster::Sim;
use faults::Faults;
use graphs::Graph;

/// What is shown of one happening.
const LINE: usize = 400;

fn seeds(default: u64) -> Vec<u64> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    match variable("HPCDAG_SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = variable("HPCDAG_SIM_FIRST").unwrap_or(0);
            (first..first + variable("HPCDAG_SIM_SEEDS").unwrap_or(default)).collect()
        }
    }
}

/// Whether these are the usual seeds, of which a test can say what comes up in them.
fn are_usual_seeds() -> bool {
    let names = ["HPCDAG_SIM_SEED", "HPCDAG_SIM_SEEDS", "HPCDAG_SIM_FIRST"];
    names.iter().all(|name| std::env::var_os(name).is_none())
}

fn check(seeds: Vec<u64>, faults: impl Fn(u64) -> Faults, graph: impl Fn(&mut fastrand::Rng) -> Graph) {
    let sim = |seed| Sim::new(seed, graph(&mut fastrand::Rng::with_seed(seed)), faults(seed));
    check_all(seeds, sim, |sim| sim.check_end());
}

/// Runs each seed; one that fails runs once more, to show what happened last.
fn check_all(seeds: Vec<u64>, make: impl Fn(u64) -> Sim, end: impl Fn(&mut Sim)) {
    for seed in seeds {
        let attempt = |sim: &mut Sim| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                sim.run();
                end(sim);
            }))
        };
        let Err(panic) = attempt(&mut make(seed)) else { continue };
        let mut again = make(seed);
        again.trace = Some(Default::default());
        if attempt(&mut again).is_err() {
            let shown = |line: &String| line.chars().take(LINE).collect::<String>();
            again.trace.iter().flatten().for_each(|line| eprintln!("{}", shown(line)));
        }
        let test = std::thread::current().name().unwrap_or("").to_string();
        eprintln!("seed {seed}, {:?}", again.faults);
        eprintln!("replay it with: HPCDAG_SIM_SEED={seed} cargo test --test sim {test}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn random_graphs_without_faults() {
    check(seeds(100), |_| Faults::default(), graphs::random);
}

#[test]
fn random_graphs_with_lost_workers() {
    check(seeds(80), |_| Faults { losses: 4, ..Faults::default() }, graphs::random);
}

#[test]
fn random_graphs_with_everything() {
    let faults = |seed| Faults {
        losses: seed as u32 % 5,
        retirements: seed as u32 % 3,
        late_joiners: seed as u32 % 4,
        fetch_failures: 0.05,
        task_failures: 0.05,
        ..Faults::default()
    };
    check(seeds(120), faults, graphs::random);
}

/// Five workers, of which at most two leave for good: there are always three for a task on three nodes.
#[test]
fn random_graphs_with_tasks_on_several_nodes() {
    let faults = |seed| Faults {
        workers: 5,
        losses: seed as u32 % 5,
        retirements: seed as u32 % 3,
        fetch_failures: if seed % 2 == 0 { 0.0 } else { 0.05 },
        task_failures: if seed % 4 < 2 { 0.0 } else { 0.05 },
        memory_target: (seed % 5 == 4).then_some(seed % 7 * 2000),
        ..Faults::default()
    };
    check(seeds(300), faults, graphs::random_wide);
}

#[test]
fn chains_survive_the_loss_of_all_workers_at_once() {
    let faults = |_| Faults { losses: 2, all_at_once: true, ..Faults::default() };
    check(seeds(40), faults, |rng| graphs::chain(rng.u32(1..40), rng.u32(1..8)));
}

#[test]
fn a_stencil_survives_losses() {
    let faults = |_| Faults { losses: 3, ..Faults::default() };
    check(seeds(40), faults, |rng| graphs::stencil(rng.u32(2..20), rng.u32(1..8)));
}

#[test]
fn groups_by_bytes_cover_everything_once() {
    let faults = |seed| Faults { losses: seed as u32 % 4, ..Faults::default() };
    check(seeds(40), faults, |rng| graphs::sparse_groups(rng.u32(0..120), 1 << rng.u32(4..14)));
}

#[test]
fn no_memory_target_stops_a_run_however_small() {
    let faults = |seed| Faults {
        losses: seed as u32 % 3,
        retirements: seed as u32 % 2,
        memory_target: Some(seed % 7 * 2000),
        task_failures: 0.02,
        ..Faults::default()
    };
    check(seeds(80), faults, graphs::random);
}

/// Side chains that merge back (load, pad with a neighbour, combine): the case in which roots must not run
/// ahead.
#[test]
fn streamable_graphs_stay_under_the_target() {
    const BYTES: u64 = 1000;
    for seed in seeds(4) {
        // Four times as much as two workers of 32 results each may hold.
        for graph in [graphs::side_chain(256), graphs::chain(256, 3), graphs::map_sum(256)] {
            let faults = Faults {
                workers: 2,
                threads: Some(2),
                memory_target: Some(32 * BYTES),
                result_bytes: Some(BYTES),
                ..Faults::default()
            };
            let mut sim = Sim::new(seed, graph, faults);
            sim.run();
            sim.check_end();
            assert!(sim.peak() <= 32 * BYTES, "seed {seed}: {} results at once", sim.peak() / BYTES);
        }
    }
}

#[test]
fn a_late_joiner_gets_queued_work() {
    for seed in seeds(10) {
        let mut sim = Sim::new(seed, graphs::independent(64), Faults { late_joiners: 1, ..Faults::slow(1) });
        sim.run();
        sim.check_end();
        let shares = sim.executed_by_worker();
        assert!(shares.len() == 2 && shares.iter().all(|(_, n)| *n >= 8), "seed {seed}: {shares:?}");
    }
}

#[test]
fn failing_tasks_take_their_dependents_with_them_and_nothing_else() {
    let faults = Faults { hopeless: 0.03, losses: 1, ..Faults::default() };
    let sim = |seed| Sim::new(seed, graphs::random(&mut fastrand::Rng::with_seed(seed)), faults.clone());
    check_all(seeds(60), sim, |sim| sim.check_any_end());
}

#[test]
fn known_shapes_survive_losses() {
    let faults = |seed| Faults { losses: seed as u32 % 3, holders_lost: 1, ..Faults::default() };
    check(seeds(60), faults, shapes::any);
}

/// Several runs and clients, and every kind of fault by chance.
fn anything(seed: u64) -> Sim {
    let mut rng = fastrand::Rng::with_seed(seed);
    let runs = if rng.bool() { 1 } else { rng.usize(2..4) };
    let graphs = (0..runs).map(|_| graphs::any(&mut rng)).collect();
    Sim::with(seed, graphs, Faults::generate(seed))
}

#[test]
fn any_graphs_with_any_faults() {
    check_all(seeds(150), anything, |sim| sim.check_any_end());
}
