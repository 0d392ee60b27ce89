//! Each fault that is put in on purpose is noticed, and by the checker whose business it is.

use crate::cluster::Sim;
use crate::faults::Faults;
use crate::graphs;
use crate::sabotage::{Kind, Sabotage};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs in which a fault is tried before it counts as unnoticed.
const TRIES: u64 = 60;

/// Faults under which every kind of action and report comes up.
fn faults(kind: Kind, seed: u64) -> Faults {
    let moves =
        matches!(kind, Kind::LoseReplicate | Kind::LoseDismiss | Kind::LoseReturned | Kind::LoseSteal);
    Faults {
        retirements: if moves || kind == Kind::LoseKept { 2 } else { 0 },
        task_failures: if matches!(kind, Kind::LoseFailed | Kind::FinishedForFailed) { 0.2 } else { 0.0 },
        losses: if kind == Kind::LoseMissing { 3 } else { 0 },
        fetch_failures: if kind == Kind::LoseMissing { 0.2 } else { 0.0 },
        cancels: u32::from(kind == Kind::LoseCancel),
        mean_us: if kind == Kind::LoseCancel { 20_000 } else { 5_000 },
        threads: Some(1 + seed as u32 % 2),
        ..Faults::default()
    }
}

/// What the checkers said about the first run in which the fault came up and was noticed.
fn noticed(kind: Kind) -> Option<String> {
    for seed in 0..TRIES {
        let graph = graphs::random(&mut fastrand::Rng::with_seed(seed));
        let mut sim = Sim::new(seed, graph, faults(kind, seed));
        sim.sabotage = Some(Sabotage::new(kind, seed as u32 % 3));
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            sim.run();
            sim.check_any_end();
        }));
        let done = sim.sabotage.as_ref().map_or(0, |s| s.done);
        if let Err(panic) = outcome {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
            assert!(done > 0, "{kind:?}: something is wrong without any sabotage: {words}");
            return Some(words);
        }
    }
    None
}

fn check(kind: Kind, checkers: &[&str]) {
    let words = noticed(kind).unwrap_or_else(|| panic!("{kind:?} was not noticed"));
    println!("{kind:?}: {}", words.lines().next().unwrap_or_default());
    assert!(checkers.iter().any(|c| words.contains(c)), "{kind:?} was noticed by another: {words}");
}

macro_rules! noticed {
    ($($test:ident: $kind:ident by $($checker:literal)|+;)+) => {
        $(#[test] fn $test() { check(Kind::$kind, &[$($checker),+]); })+
    };
}

noticed! {
    lost_frees_are_noticed: LoseFree by "leftovers";
    one_lost_free_is_noticed: LoseOneFree by "leftovers";
    lost_cancels_are_noticed: LoseCancel by "results" | "leftovers" | "recomputation";
    lost_steal_requests_are_noticed: LoseSteal by "leftovers" | "progress";
    lost_copies_are_noticed: LoseReplicate by "progress" | "leftovers";
    lost_dismissals_are_noticed: LoseDismiss by "leftovers" | "progress";
    lost_announcements_are_noticed: LoseOutputs by "progress";
    a_lost_end_is_noticed: LoseRunDone by "progress";
    a_second_end_is_noticed: RunDoneTwice by "ends twice";
    outputs_announced_again_are_noticed: OutputsTwice by "results";
    a_wrong_holder_is_noticed: WrongHolder by "recomputation" | "progress";
    a_task_given_to_two_is_noticed: ComputeTwice by "recomputation" | "leftovers" | "published what ran";
    swapped_inputs_are_noticed: InputsSwapped by "results";
    a_result_freed_too_early_is_noticed: FreeOnCompute by "recomputation" | "an input is not there";
    lost_successes_are_noticed: LoseFinished by "progress";
    lost_failures_are_noticed: LoseFailed by "progress";
    lost_complaints_are_noticed: LoseMissing by "progress";
    lost_tasks_that_came_back_are_noticed: LoseReturned by "progress";
    unanswered_steal_requests_are_noticed: LoseKept by "leftovers" | "progress";
    lost_news_of_copies_are_noticed: LoseReplicas by "leftovers";
    wrong_sizes_are_noticed: WrongSize by "results" | "leftovers";
    failures_told_as_successes_are_noticed: FinishedForFailed by "results" | "recomputation";
}
