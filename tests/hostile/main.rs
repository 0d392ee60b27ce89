//! What comes from outside and means harm, or nothing: damaged bytes and texts, strangers who connect,
//! peers with valid credentials that say what no worker says. Nothing may panic, grow without bound or stop
//! a cluster's work.
//!
//! `HPCDAG_FUZZ_SEED=n` replays one seed; `HPCDAG_FUZZ_SEEDS=n` runs so many instead of the default, from
//! `HPCDAG_FUZZ_FIRST` on.

mod damage;
mod reports;
#[path = "../cluster/site.rs"]
#[allow(dead_code)] // It serves other tests, too.
mod site;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod texts;
mod wire;

/// Runs a check with many seeds and says which one failed.
fn fuzz(default: u64, check: impl Fn(&mut fastrand::Rng)) {
    let variable = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let (first, count) = match variable("HPCDAG_FUZZ_SEED") {
        Some(seed) => (seed, 1),
        None => {
            (variable("HPCDAG_FUZZ_FIRST").unwrap_or(0), variable("HPCDAG_FUZZ_SEEDS").unwrap_or(default))
        }
    };
    for seed in first..first.saturating_add(count) {
        let checked = || check(&mut fastrand::Rng::with_seed(seed));
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(checked)) {
            eprintln!("this was seed {seed}: replay it with HPCDAG_FUZZ_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
