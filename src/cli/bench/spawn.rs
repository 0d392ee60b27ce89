//! `hpcdag bench spawn`: commands that do nothing, against a bare loop that starts as many processes. Owns
//! the loop, and the rounds in which both run in turn.

use super::cluster::{BenchCluster, WorkerKind};
use super::figures::Figures;
use super::usage;
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::BenchSpawnArgs;
use crate::cli::context::{Context, run_long};
use crate::client::{Discard, SubmitOptions, Taker};
use crate::graph::Origin;
use crate::graph::file::umask;
use crate::graph::single::{Each, command};
use crate::worker::store::memfile::MemWriter;
use nix::sys::resource::{UsageWho, getrusage};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Processes at a time.
const SLOTS: u32 = 2;

/// What one round took.
#[derive(Clone, Copy, Debug)]
struct Round {
    wall: Duration,
    cpu: Duration,
}

/// Runs the command; returns the exit code.
///
/// # Errors
/// What keeps a round from its end; what [`Figures::finish`] finds.
pub fn spawn(context: &Context, args: &BenchSpawnArgs) -> Result<u8> {
    let program = find_true()?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    run_long(async {
        let kind = WorkerKind {
            nworkers: 1,
            nthreads: SLOTS,
            memory_limit: 1 << 30,
            limited: true,
            local_directory: None,
        };
        let cluster = BenchCluster::start(&context.config(), kind).await?;
        // The first ones find cold caches.
        run(&cluster, args.tasks.min(100)).await?;
        for _ in 0..args.rounds {
            bare.push(bare_loop(&program, args.tasks)?);
            ours.push(run(&cluster, args.tasks).await?);
        }
        cluster.stop().await
    })?;
    let best = |rounds: &[Round]| rounds.iter().copied().min_by_key(|r| r.wall);
    let (Some(best), Some(loop_best)) = (best(&ours), best(&bare)) else { return Ok(0) };
    let tasks = f64::from(args.tasks);
    let ratios: Vec<f64> =
        ours.iter().zip(&bare).map(|(o, b)| b.wall.as_secs_f64() / o.wall.as_secs_f64()).collect();
    Figures::new("spawn", args.tasks.into(), best.wall, best.cpu)
        .with("tasks", args.tasks)
        .with("slots", SLOTS)
        .say("fraction_of_limit", loop_best.wall.as_secs_f64() / best.wall.as_secs_f64())
        .say("fractions", ratios)
        .say("limit_tasks_per_second", tasks / loop_best.wall.as_secs_f64())
        .say("limit_cpu_us_per_task", loop_best.cpu.as_secs_f64() * 1e6 / tasks)
        .finish(&args.record)
}

fn find_true() -> Result<PathBuf> {
    let found = ["/usr/bin/true", "/bin/true"].map(PathBuf::from).into_iter().find(|path| path.is_file());
    found.ok_or_else(|| Error::new(Kind::Launch, "there is no program `true` in /usr/bin or /bin"))
}

/// Starts processes as fast as this machine can, as many at a time as the worker has slots.
fn bare_loop(program: &PathBuf, tasks: u32) -> Result<Round> {
    let (begin, before) = (Instant::now(), own_cpu());
    let ended = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SLOTS)
            .map(|at| {
                let own = tasks / SLOTS + u32::from(at < tasks % SLOTS);
                scope.spawn(move || (0..own).try_for_each(|_| run_bare(program)))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the loop panicked")))
        })
    });
    ended.map_err(|e| Error::os("the bare loop cannot start processes", e))?;
    Ok(Round { wall: begin.elapsed(), cpu: own_cpu().saturating_sub(before) })
}

/// One process, with stdio as tasks have it: nothing to read, a memory file, a pipe. With these options the
/// standard library starts it by posix_spawn, and hands its own environment on as it is.
fn run_bare(program: &PathBuf) -> io::Result<()> {
    let out = MemWriter::create("bare")?;
    let (mut read, write) = io::pipe()?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(out.file().try_clone()?).stderr(write).process_group(0);
    let mut child = command.spawn()?;
    // With it goes our copy of the pipe's other end.
    drop(command);
    let status = child.wait()?;
    let mut said = Vec::new();
    read.read_to_end(&mut said)?;
    if !status.success() || !said.is_empty() || out.size()? > 0 {
        return Err(io::Error::other(format!("{} ended with {status}", program.display())));
    }
    Ok(())
}

/// Runs as many tasks on the cluster, of which nothing is wanted but their end.
async fn run(cluster: &BenchCluster, tasks: u32) -> Result<Round> {
    let base_dir = std::env::temp_dir();
    let origin = Origin { name: "spawn".into(), base_dir, umask: umask() };
    let graph = command(vec!["true".into()], Each::Numbers { start: 0, step: 1, count: tasks }, &origin)?;
    let workers = cluster.workers();
    let cpu = || {
        let of_workers: Duration = workers.iter().filter_map(|pid| usage::cpu_with_children_of(*pid)).sum();
        usage::cpu() + of_workers
    };
    let (begin, before) = (Instant::now(), cpu());
    let handle = cluster.client.submit(graph, SubmitOptions::default()).await?;
    let end = Taker::new(handle, Arc::new(Discard)).finish(|_| {}).await?;
    let round = Round { wall: begin.elapsed(), cpu: cpu().saturating_sub(before) };
    match end.summary.failures.first() {
        Some(failure) => {
            Err(Error::new(Kind::TasksFailed, format!("{} failed: {}", failure.key, failure.reason)))
        }
        None => Ok(round),
    }
}

/// Processor time of this process and of those of its children that have ended.
fn own_cpu() -> Duration {
    let children = getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |used| {
        let time = |t: nix::sys::time::TimeVal| {
            let whole = Duration::from_secs(u64::try_from(t.tv_sec()).unwrap_or(0));
            whole + Duration::from_micros(u64::try_from(t.tv_usec()).unwrap_or(0))
        };
        time(used.user_time()) + time(used.system_time())
    });
    usage::cpu() + children
}
