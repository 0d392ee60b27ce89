//! The memory benchmark at a size that must not hurt: what streams is neither spilled nor held back, and the
//! figures are the workers' own.

mod support;

use serde_json::Value;
use std::time::Duration;
use support::Sandbox;

const LIMIT: Duration = Duration::from_secs(240);

fn bench(sandbox: &Sandbox, args: &[&str]) -> Value {
    let mut all = vec!["bench", "memory", "--json"];
    all.extend(args);
    let text = sandbox.run("bench", sandbox.hpcdag(&all), LIMIT);
    serde_json::from_str(&text).expect("figures in JSON")
}

/// Four times the cluster's memory of the ocean vorticity case: pieces with a neighbour, merged.
#[test]
fn what_streams_is_not_spilled() {
    let sandbox = Sandbox::new();
    let figures = bench(
        &sandbox,
        &["side-chain", "--memory-limit", "256MiB", "--total", "2GiB", "--chunk", "8MiB", "--no-compare"],
    );
    assert_eq!(figures["spilled_bytes"], 0, "{figures}");
    assert_eq!(figures["worker_restarts"], 0, "{figures}");
    assert_eq!(figures["paused_seconds"], 0.0, "{figures}");
    let (peak, target) = (&figures["peak_managed_fraction"], &figures["target_fraction"]);
    assert!(peak.as_f64().expect("a peak") <= target.as_f64().expect("a target"), "{figures}");
    // The peaks are measured: each worker held at least a piece, and the least possible was not undercut.
    let held = peak.as_f64().expect("a peak") * 2.0 * figures["memory_limit"].as_f64().expect("a limit");
    assert!(held >= figures["least_peak_bytes"].as_f64().expect("a bound"), "{figures}");
}

/// What cannot all stay in memory goes to disk, comes back, and gives the same result.
#[test]
fn what_does_not_fit_is_spilled_and_read_back() {
    let sandbox = Sandbox::new();
    let args = ["spill", "--memory-limit", "128MiB", "--total", "384MiB", "--chunk", "8MiB"];
    let figures = bench(&sandbox, &args);
    let number = |name: &str| figures[name].as_u64().unwrap_or_else(|| panic!("{name}: {figures}"));
    assert!(number("least_spill_bytes") > 0, "{figures}");
    assert!(number("spilled_bytes") >= number("least_spill_bytes"), "{figures}");
    assert_eq!(figures["results_agree"], true, "{figures}");
    assert_eq!(figures["worker_restarts"], 0, "{figures}");
    // Room is made before it is needed: no more than a chunk beyond the target.
    let peak = figures["peak_managed_fraction"].as_f64().expect("a peak");
    assert!(peak <= figures["target_fraction"].as_f64().expect("a target") + 8.0 / 128.0, "{figures}");
    // How fast that was, and how fast the disk is: only that it was measured, for a test shares the machine.
    for name in ["spill_write", "disk_write", "spill_read", "disk_read"] {
        let speed = figures[format!("{name}_bytes_per_second")].as_f64();
        assert!(speed.is_some_and(|speed| speed > 0.0), "{name}: {figures}");
    }
}

/// All data are needed twice and do not fit: they are written about once. On a busy machine the scheduler
/// hears late of what was made, and more goes to disk.
#[test]
fn what_must_leave_memory_is_not_written_twice() {
    let sandbox = Sandbox::new();
    let args =
        ["anomaly", "--memory-limit", "128MiB", "--total", "640MiB", "--chunk", "8MiB", "--no-compare"];
    let figures = bench(&sandbox, &args);
    let number = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("{name}: {figures}"));
    assert!(number("spilled_bytes") >= number("least_spill_bytes"), "{figures}");
    assert!(number("spilled_bytes") <= 2.0 * number("least_spill_bytes"), "{figures}");
    assert!(number("peak_managed_fraction") <= number("target_fraction") + 8.0 / 128.0, "{figures}");
    assert_eq!(figures["worker_restarts"], 0, "{figures}");
}

/// Tasks hold the memory, and what they make is next to nothing: writing it would free none.
#[test]
fn small_results_stay_while_tasks_hold_the_memory() {
    let sandbox = Sandbox::new();
    let args =
        ["transient", "--memory-limit", "256MiB", "--total", "2GiB", "--chunk", "200MiB", "--no-compare"];
    let figures = bench(&sandbox, &args);
    assert_eq!(figures["spilled_bytes"], 0, "{figures}");
    assert!(figures["peak_total_fraction"].as_f64().expect("a peak") > 0.7, "{figures}");
}
