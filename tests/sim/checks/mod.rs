//! What must be true of a simulated run, each in its own file: results, invariants, progress,
//! recomputation, leftovers. Owns what they note while the simulation goes on; every one of them has been
//! seen to fail (`sabotage`, and `scripts/mutate`).

mod invariants;
mod leftovers;
pub mod progress;
pub mod recomputation;
mod results;

/// What the checkers note.
#[derive(Default)]
pub struct Checks {
    pub ledger: recomputation::Ledger,
    pub progress: progress::Progress,
}
