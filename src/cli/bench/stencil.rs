//! `hpcdag bench stencil`: METG(50 %), the length of tasks at which half of what a cluster uses goes into the
//! tasks themselves. Owns the ladder of lengths and what is read off it; the processes are `parts`'.

use super::figures::Figures;
use super::parts::{Parts, Run};
use super::shapes::{self, Work};
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::{BenchStencilArgs, GraphOptions, GraphShape, Keys};
use crate::cli::context::{Context, run_long};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Size of a task's result, bytes: what was moved tells how many were.
const RESULT_BYTES: u64 = 8;

/// Iterations of the first look at how long one takes.
const TRIAL_ITERATIONS: u64 = 5_000_000;

/// What a task computes while an iteration is measured: long enough that nothing else counts.
const CALIBRATION_TASK: Duration = Duration::from_millis(20);

/// Computing in one run at most, over all threads together: longer tasks are fewer.
const COMPUTING_MAX: Duration = Duration::from_secs(4);

/// Steps of the stencil at least.
const STEPS_MIN: u32 = 10;

/// The shortest and the longest tasks that are tried.
const SHORTEST: Duration = Duration::from_micros(1);
const LONGEST: Duration = Duration::from_millis(100);

/// One length of tasks.
#[derive(Clone, Copy, Debug, Serialize)]
struct Rung {
    length_us: f64,
    tasks: u64,
    seconds: f64,
    cpu_us_per_task: f64,
    efficiency_by_cpu: f64,
    efficiency_by_wall: f64,
    remote_inputs_per_task: f64,
}

/// Runs the command; returns the exit code.
///
/// # Errors
/// What keeps a run from its end; what [`Figures::finish`] finds.
pub fn stencil(context: &Context, args: &BenchStencilArgs) -> Result<u8> {
    let (rungs, run, iteration_ns) = run_long(async {
        let mut parts = Parts::start(&context.config()).await?;
        parts.start_workers(args.nworkers, args.nthreads).await?;
        let iteration_ns = calibrate(&mut parts, slots(args)).await?;
        let (rungs, run) = ladder(&mut parts, args, iteration_ns).await?;
        parts.stop().await?;
        Ok((rungs, run, iteration_ns))
    })?;
    let tasks = run.summary.tasks;
    let remote = rungs.last().map_or(0.0, |r| r.remote_inputs_per_task);
    let mut figures = Figures::new("stencil", tasks, run.wall, run.cpu.sum())
        .with("nworkers", args.nworkers)
        .with("nthreads", args.nthreads)
        .with("width", args.width)
        .with("tasks", args.tasks)
        .say("metg_us", metg(&rungs, |r| r.efficiency_by_cpu))
        .say("metg_wall_us", metg(&rungs, |r| r.efficiency_by_wall))
        .say("remote_inputs_per_task", remote)
        .say("iteration_ns", iteration_ns)
        .say("ladder", serde_json::to_value(&rungs).unwrap_or(Value::Null));
    figures.scheduler_bytes_per_task = run.scheduler_bytes.map(|bytes| bytes as f64 / tasks.max(1) as f64);
    figures.finish(&args.record)
}

/// Threads that compute.
fn slots(args: &BenchStencilArgs) -> u32 {
    args.nworkers.saturating_mul(args.nthreads)
}

fn computing(iterations: u64) -> Work {
    Work { function: "busy", args: json!({ "iterations": iterations, "size": RESULT_BYTES }) }
}

fn graph_of(shape: GraphShape, tasks: u32, width: Option<u32>, work: &Work) -> Result<crate::graph::Graph> {
    shapes::graph(&GraphOptions { tasks, shape, keys: Keys::Family, width }, work)
}

/// Processor time of one iteration, nanoseconds: that of the workers while they do hardly anything else.
async fn calibrate(parts: &mut Parts, slots: u32) -> Result<f64> {
    let mut iterations = TRIAL_ITERATIONS;
    let mut each = 0.0;
    for tasks in [slots, slots.saturating_mul(10)] {
        let run = parts.run(graph_of(GraphShape::Independent, tasks, None, &computing(iterations))?).await?;
        each = run.cpu.workers.as_nanos() as f64 / (run.summary.tasks.max(1) * iterations) as f64;
        if each <= 0.0 {
            return Err(Error::new(Kind::Internal, "computing takes no processor time here"));
        }
        iterations = (CALIBRATION_TASK.as_nanos() as f64 / each).max(1.0) as u64;
    }
    Ok(each)
}

/// Runs shorter and shorter tasks until less than half of the time goes into them; returns what was found and
/// the last run.
async fn ladder(parts: &mut Parts, args: &BenchStencilArgs, iteration_ns: f64) -> Result<(Vec<Rung>, Run)> {
    let mut length = args.longest.0.clamp(SHORTEST, LONGEST);
    let (mut rung, mut run) = step(parts, args, length, iteration_ns).await?;
    let mut rungs = vec![rung];
    // Where even these are too short, up first.
    let mut longer = length;
    while rungs[0].efficiency_by_cpu < 0.5 && longer < LONGEST {
        longer = (longer * 2).min(LONGEST);
        rungs.insert(0, step(parts, args, longer, iteration_ns).await?.0);
    }
    while rung.efficiency_by_cpu.max(rung.efficiency_by_wall) >= 0.5 && length > SHORTEST {
        length = (length / 2).max(SHORTEST);
        (rung, run) = step(parts, args, length, iteration_ns).await?;
        rungs.push(rung);
    }
    Ok((rungs, run))
}

/// Runs tasks of one length.
async fn step(
    parts: &mut Parts,
    args: &BenchStencilArgs,
    length: Duration,
    iteration_ns: f64,
) -> Result<(Rung, Run)> {
    let most = COMPUTING_MAX.as_secs_f64() * f64::from(slots(args)) / length.as_secs_f64();
    let tasks = args.tasks.min(most as u32).max(args.width.saturating_mul(STEPS_MIN));
    let iterations = (length.as_nanos() as f64 / iteration_ns).round().max(1.0) as u64;
    let graph = graph_of(GraphShape::Stencil, tasks, Some(args.width), &computing(iterations))?;
    let run = parts.run(graph).await?;
    Ok((Rung::of(&run, iterations as f64 * iteration_ns / 1e9, slots(args)), run))
}

impl Rung {
    fn of(run: &Run, length: f64, slots: u32) -> Rung {
        let tasks = run.summary.tasks;
        let (n, wall, cpu) = (tasks.max(1) as f64, run.wall.as_secs_f64(), run.cpu.sum().as_secs_f64());
        Rung {
            length_us: length * 1e6,
            tasks,
            seconds: wall,
            cpu_us_per_task: cpu * 1e6 / n,
            efficiency_by_cpu: n * length / cpu,
            efficiency_by_wall: n * length / (wall * f64::from(slots)),
            remote_inputs_per_task: run.summary.bytes_moved as f64 / RESULT_BYTES as f64 / n,
        }
    }
}

/// The length at which an efficiency is one half, between two that were measured; `None` when all are below,
/// the shortest when all are above.
fn metg(rungs: &[Rung], efficiency: impl Fn(&Rung) -> f64) -> Option<f64> {
    let below = rungs.iter().position(|r| efficiency(r) < 0.5);
    let Some(at) = below else { return rungs.last().map(|r| r.length_us) };
    let (long, short) = (rungs.get(at.checked_sub(1)?)?, &rungs[at]);
    let (high, low) = (efficiency(long), efficiency(short));
    let part = (high - 0.5) / (high - low);
    Some((long.length_us.ln() + part * (short.length_us.ln() - long.length_us.ln())).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rungs(efficiencies: &[f64]) -> Vec<Rung> {
        let rung = |(n, &e): (usize, &f64)| Rung {
            length_us: 1000.0 / 2f64.powi(n as i32),
            tasks: 1,
            seconds: 1.0,
            cpu_us_per_task: 1.0,
            efficiency_by_cpu: e,
            efficiency_by_wall: e,
            remote_inputs_per_task: 0.0,
        };
        efficiencies.iter().enumerate().map(rung).collect()
    }

    #[test]
    fn metg_lies_between_two_lengths() {
        let of = |efficiencies: &[f64]| metg(&rungs(efficiencies), |r| r.efficiency_by_cpu);
        for (efficiencies, expected) in
            [(&[0.9, 0.5, 0.4][..], 500.0), (&[0.9, 0.6, 0.4], 353.6), (&[0.9, 0.8], 500.0)]
        {
            let found = of(efficiencies).unwrap();
            assert!((found - expected).abs() < 0.1, "{efficiencies:?}: {found}");
        }
        assert_eq!(of(&[0.4]), None);
    }
}
