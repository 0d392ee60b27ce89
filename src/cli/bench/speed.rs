//! `hpcdag bench zero-worker`, `tasks` and `connections`: a graph run by processes as they are everywhere
//! else. Owns what is run and what is said of it; the processes are `parts`'.

use super::figures::Figures;
use super::parts::{Parts, Registered, Run};
use super::shapes::{self, Work};
use super::viewers::Viewers;
use crate::base::error::Result;
use crate::cli::args::{BenchConnectionsArgs, BenchTasksArgs, BenchZeroWorkerArgs, GraphOptions};
use crate::cli::context::{Context, run_long};
use crate::config::Config;

/// With how many workers the throughput of many is compared.
const FEW: u32 = 10;

/// Runs `zero-worker`; returns the exit code.
///
/// # Errors
/// What keeps the run from its end; what [`Figures::finish`] finds.
pub fn zero_worker(context: &Context, args: &BenchZeroWorkerArgs) -> Result<u8> {
    let (run, _) = run_long(pretend(&context.config(), &args.graph, args.nworkers))?;
    figures("zero-worker", &run, &args.graph, args.nworkers).finish(&args.record)
}

/// Runs `tasks`; returns the exit code.
///
/// # Errors
/// As [`zero_worker`].
pub fn tasks(context: &Context, args: &BenchTasksArgs) -> Result<u8> {
    let run = run_long(async {
        let graph = shapes::graph(&args.graph, &Work::none())?;
        let mut parts = Parts::start(&context.config()).await?;
        parts.start_workers(args.nworkers, args.nthreads).await?;
        let viewers = Viewers::start(&parts, &context.config(), args.viewers).await?;
        let run = parts.run(graph).await?;
        let answers = viewers.end().await;
        parts.stop().await?;
        Ok((run, answers))
    })?;
    let (run, answers) = run;
    figures("tasks", &run, &args.graph, args.nworkers)
        .with("nthreads", args.nthreads)
        .with("viewers", args.viewers)
        .say("views_answered", answers)
        .finish(&args.record)
}

/// Runs `connections`; returns the exit code.
///
/// # Errors
/// As [`zero_worker`].
pub fn connections(context: &Context, args: &BenchConnectionsArgs) -> Result<u8> {
    let (run, registered, few) = run_long(async {
        let config = context.config();
        let (few, _) = pretend(&config, &args.graph, FEW).await?;
        let (run, registered) = pretend(&config, &args.graph, args.nworkers).await?;
        Ok((run, registered, few))
    })?;
    let of_few = figures("", &few, &args.graph, FEW).tasks_per_second;
    let figures = figures("connections", &run, &args.graph, args.nworkers);
    let fraction = figures.tasks_per_second / of_few;
    figures
        .say("registered_seconds", registered.seconds)
        .say("open_files", registered.open_files)
        .say("retries", registered.retries)
        .say("tasks_per_second_with_10", of_few)
        .say("fraction_of_10", fraction)
        .finish(&args.record)
}

/// Runs a graph on pretended workers.
async fn pretend(config: &Config, options: &GraphOptions, nworkers: u32) -> Result<(Run, Registered)> {
    let graph = shapes::graph(options, &Work::none())?;
    let mut parts = Parts::start(config).await?;
    let registered = parts.start_sessions(nworkers).await?;
    let run = parts.run(graph).await?;
    parts.stop().await?;
    Ok((run, registered))
}

/// The figures of a run.
fn figures(bench: &str, run: &Run, graph: &GraphOptions, nworkers: u32) -> Figures {
    let tasks = run.summary.tasks;
    let each = |time: std::time::Duration| time.as_secs_f64() * 1e6 / tasks.max(1) as f64;
    let mut figures = Figures::new(bench, tasks, run.wall, run.cpu.sum())
        .with("shape", shapes::name(graph.shape))
        .with("keys", shapes::name(graph.keys))
        .with("nworkers", nworkers)
        .with("tasks", tasks)
        .say("submit_seconds", run.submit.as_secs_f64())
        .say("client_cpu_us_per_task", each(run.cpu.client))
        .say("scheduler_cpu_us_per_task", each(run.cpu.scheduler))
        .say("workers_cpu_us_per_task", each(run.cpu.workers));
    figures.scheduler_bytes_per_task = run.scheduler_bytes.map(|bytes| bytes as f64 / tasks.max(1) as f64);
    figures
}
