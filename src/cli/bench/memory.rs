//! `hpcdag bench memory`: runs one shape with and without limits, and says what it took. Owns the figures;
//! shapes are `workload`'s, processes `cluster`'s.

use super::cluster::{BenchCluster, WorkerKind};
use super::disk;
use super::workload::{self, Dimensions, RESULT, Workload};
use crate::base::error::{Error, Kind, Result};
use crate::base::units::ByteSize;
use crate::cli::args::BenchMemoryArgs;
use crate::cli::context::{Context, absolute, run_long};
use crate::cli::output::{self, Align, Out, Table};
use crate::cli::signals::Requests;
use crate::client::{Memory, SubmitOptions, Taker};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks whether all workers are alive.
const LOOK: Duration = Duration::from_millis(200);

/// The disk is measured when at least so much was spilled, with at most so much.
const PROBE_BYTES_MIN: u64 = 64 << 20;
const PROBE_BYTES_MAX: u64 = 1 << 30;

/// What one run took.
#[derive(Clone, Debug)]
struct Figures {
    peak_managed: u64,
    peak_total: u64,
    spilled: u64,
    seconds: f64,
    restarts: u32,
    paused_seconds: f64,
    tasks: u64,
    bytes_moved: u64,
    /// Bytes per second while workers wrote and read back, if they did.
    spill_write: Option<f64>,
    spill_read: Option<f64>,
    result: Vec<u8>,
}

/// What is printed. Fractions are of a worker's memory limit.
#[derive(Clone, Debug, Serialize)]
struct Report {
    workload: String,
    nworkers: u32,
    nthreads: u32,
    memory_limit: u64,
    total_bytes: u64,
    chunk_bytes: u64,
    tasks: u64,
    /// The threshold up to which results are admitted, as a fraction.
    target_fraction: Option<f64>,
    peak_managed_fraction: f64,
    peak_total_fraction: f64,
    spilled_bytes: u64,
    /// A worker's mean while it writes; and what the same disk does for one plain writer, as `dd` measures
    /// it.
    spill_write_bytes_per_second: Option<f64>,
    disk_write_bytes_per_second: Option<f64>,
    spill_write_ratio: Option<f64>,
    /// The same for reading back.
    spill_read_bytes_per_second: Option<f64>,
    disk_read_bytes_per_second: Option<f64>,
    spill_read_ratio: Option<f64>,
    moved_bytes: u64,
    seconds: f64,
    unlimited_seconds: Option<f64>,
    /// Largest of the unlimited run: what admission saves.
    unlimited_peak_managed_fraction: Option<f64>,
    /// Why there is none.
    unlimited_skipped: Option<String>,
    worker_restarts: u32,
    paused_seconds: f64,
    least_peak_bytes: u64,
    least_spill_bytes: u64,
    results_agree: Option<bool>,
}

/// Runs the command; returns the exit code: not 0 when the two runs' results differ.
///
/// # Errors
/// `Usage` for impossible sizes; a run that does not end, or fails.
pub fn memory(context: &Context, args: &BenchMemoryArgs) -> Result<u8> {
    let limit = args.memory_limit.0;
    let usual = Dimensions::usual(args.workload, limit, args.nworkers);
    let dimensions = Dimensions {
        total: args.total.map_or(usual.total, |size| size.0),
        chunk: args.chunk.map_or(usual.chunk, |size| size.0),
    };
    let make = || workload::make(args.workload, dimensions, &std::env::temp_dir());
    let workload = make()?;
    let (total, least_peak) = (workload.total, workload.least_peak);
    let slots = u64::from(args.nworkers) * u64::from(args.nthreads);
    // Without limits nothing keeps all results from being there at once; other memory only as many run.
    let may_hold = if is_transient(args) { least_peak.saturating_mul(slots) } else { total.max(least_peak) };
    let (first, second) = run_long(async {
        let first = run(context, args, workload, !args.unlimited).await?;
        let skipped = match args.unlimited || args.no_compare {
            true => None,
            false => too_little_memory(may_hold),
        };
        let second = match args.unlimited || args.no_compare || skipped.is_some() {
            true => None,
            false => Some(run(context, args, make()?, false).await?),
        };
        Ok((first, (second, skipped)))
    })?;
    let (second, skipped) = second;
    let speed = disk_speed(args, &first)?;
    let ratio = |ours: Option<f64>, plain: fn(&disk::Speed) -> f64| Some(ours? / plain(speed.as_ref()?));
    let fraction = |bytes: u64| bytes as f64 / limit as f64;
    let settings = &context.config().worker.memory;
    let target = [settings.target, settings.spill, settings.pause, settings.terminate];
    let target = target.into_iter().flatten().next().map(|f| f.0);
    let room = target.map_or(u64::MAX, |f| (f * limit as f64) as u64).saturating_mul(args.nworkers.into());
    let report = Report {
        workload: name_of(args),
        nworkers: args.nworkers,
        nthreads: args.nthreads,
        memory_limit: limit,
        total_bytes: total,
        chunk_bytes: dimensions.chunk,
        tasks: first.tasks,
        target_fraction: target,
        peak_managed_fraction: fraction(first.peak_managed),
        peak_total_fraction: fraction(first.peak_total),
        spilled_bytes: first.spilled,
        spill_write_bytes_per_second: first.spill_write,
        disk_write_bytes_per_second: speed.map(|s| s.write),
        spill_write_ratio: ratio(first.spill_write, |s| s.write),
        spill_read_bytes_per_second: first.spill_read,
        disk_read_bytes_per_second: speed.map(|s| s.read),
        spill_read_ratio: ratio(first.spill_read, |s| s.read),
        moved_bytes: first.bytes_moved,
        seconds: first.seconds,
        unlimited_seconds: second.as_ref().map(|f| f.seconds),
        unlimited_peak_managed_fraction: second.as_ref().map(|f| fraction(f.peak_managed)),
        unlimited_skipped: skipped,
        worker_restarts: first.restarts,
        paused_seconds: first.paused_seconds,
        least_peak_bytes: least_peak,
        // What does not fit under the workers' targets has to leave memory.
        least_spill_bytes: if is_transient(args) { 0 } else { least_peak.saturating_sub(room) },
        results_agree: second.as_ref().map(|f| f.result == first.result),
    };
    print(args, &report)?;
    if report.results_agree == Some(false) {
        return Err(Error::new(Kind::TasksFailed, "the results of the two runs differ"));
    }
    Ok(0)
}

/// What the disk on which results were spilled does without us; `None` if hardly any were.
fn disk_speed(args: &BenchMemoryArgs, run: &Figures) -> Result<Option<disk::Speed>> {
    if run.spilled < PROBE_BYTES_MIN {
        return Ok(None);
    }
    let directory = args.local_directory.as_deref().map(absolute).transpose()?;
    let directory = directory.unwrap_or_else(std::env::temp_dir);
    disk::measure(&directory, run.spilled.min(PROBE_BYTES_MAX)).map(Some)
}

fn is_transient(args: &BenchMemoryArgs) -> bool {
    args.workload == crate::cli::args::Shape::Transient
}

fn name_of(args: &BenchMemoryArgs) -> String {
    use clap::ValueEnum;
    args.workload.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

/// Why a run that may hold all of `bytes` should not be tried here.
fn too_little_memory(bytes: u64) -> Option<String> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let free = system.available_memory();
    (free < bytes.saturating_add(bytes / 4)).then(|| {
        let (bytes, free) = (ByteSize(bytes), ByteSize(free));
        format!("it may hold {bytes}, and {free} of this machine's memory are free")
    })
}

/// Runs a workload on a cluster of its own.
async fn run(
    context: &Context,
    args: &BenchMemoryArgs,
    workload: Workload,
    limited: bool,
) -> Result<Figures> {
    let kind = WorkerKind {
        nworkers: args.nworkers,
        nthreads: args.nthreads,
        memory_limit: args.memory_limit.0,
        limited,
        local_directory: args.local_directory.as_deref().map(absolute).transpose()?,
    };
    let mut requests = Requests::listen()?;
    let mut cluster = BenchCluster::start(&context.config(), kind).await?;
    let begin = Instant::now();
    let handle = cluster.client.submit(workload.graph, SubmitOptions::default()).await?;
    let results = Memory::default();
    let mut finish = Box::pin(Taker::new(handle, Arc::new(results.clone())).finish(|_| {}));
    let end = loop {
        tokio::select! {
            end = &mut finish => break end?,
            () = tokio::time::sleep(LOOK) => { cluster.mend()?; }
            signal = requests.next() => {
                return Err(Error::new(Kind::Cancelled, format!("ended by {signal}")));
            }
        }
        if begin.elapsed() > args.timeout.0 {
            let message = format!("the run has not ended after {}", args.timeout);
            return Err(Error::new(Kind::Timeout, message));
        }
    };
    drop(finish);
    let seconds = begin.elapsed().as_secs_f64();
    let restarts = cluster.mend()?;
    let status = cluster.figures().await?;
    if let Some(failure) = end.summary.failures.first() {
        let what = format!("{} failed: {}", failure.key, failure.reason);
        return Err(Error::new(Kind::TasksFailed, what));
    }
    let result = results.stdout(RESULT).ok_or_else(|| Error::os("the run has no result", "nothing came"))?;
    cluster.stop().await?;
    let workers = status["workers"].as_array().map_or(&[][..], Vec::as_slice);
    let number = |w: &Value, name: &str| w["memory"][name].as_u64().unwrap_or(0);
    let largest = |name| workers.iter().map(|w| number(w, name)).max().unwrap_or(0);
    let seconds_of = |w: &Value| w["memory"]["paused-seconds"].as_f64().unwrap_or(0.0);
    let sum = |name| workers.iter().map(|w| w["memory"][name].as_f64().unwrap_or(0.0)).sum::<f64>();
    let speed = |bytes, seconds| Some(sum(bytes) / sum(seconds)).filter(|speed| speed.is_finite());
    Ok(Figures {
        spill_write: speed("spill-written", "spill-write-seconds"),
        spill_read: speed("spill-read", "spill-read-seconds"),
        peak_managed: largest("peak-managed"),
        peak_total: largest("peak-total"),
        spilled: workers.iter().map(|w| number(w, "spill-written")).sum(),
        seconds,
        restarts,
        paused_seconds: workers.iter().map(seconds_of).sum(),
        tasks: end.summary.tasks,
        bytes_moved: end.summary.bytes_moved,
        result,
    })
}

fn print(args: &BenchMemoryArgs, report: &Report) -> Result<()> {
    let mut out = Out::stdout();
    if args.json.json {
        return out.json(report);
    }
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let percent = |fraction: f64| format!("{:.1} % of the limit", fraction * 100.0);
    let mut table = Table::new([("figure", Align::Left), ("value", Align::Right)]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("workload", report.workload.clone());
    row("loaded", size(report.total_bytes));
    row("most results in memory", percent(report.peak_managed_fraction));
    row("most memory", percent(report.peak_total_fraction));
    row("spilled", size(report.spilled_bytes));
    let speed = |speed: f64| format!("{} a second", size(speed as u64));
    for (name, ours, plain) in [
        ("spilled at", report.spill_write_bytes_per_second, report.disk_write_bytes_per_second),
        ("read back at", report.spill_read_bytes_per_second, report.disk_read_bytes_per_second),
    ] {
        if let (Some(ours), Some(plain)) = (ours, plain) {
            row(name, format!("{} ({:.0} % of a plain file)", speed(ours), ours / plain * 100.0));
        }
    }
    row("least spill possible", size(report.least_spill_bytes));
    row("least memory possible", size(report.least_peak_bytes));
    row("paused", format!("{:.1} s", report.paused_seconds));
    row("workers lost", report.worker_restarts.to_string());
    row("time", format!("{:.2} s", report.seconds));
    if let Some(seconds) = report.unlimited_seconds {
        row("time without limits", format!("{seconds:.2} s"));
    }
    if let Some(fraction) = report.unlimited_peak_managed_fraction {
        row("most results without limits", percent(fraction));
    }
    out.table(&table)?;
    if let Some(why) = &report.unlimited_skipped {
        output::say(&format!("no run without limits: {why}"));
    }
    Ok(())
}
