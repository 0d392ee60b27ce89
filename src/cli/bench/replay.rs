//! `hpcdag bench replay`: a run whose shape was recorded, once more. Owns the graph that a record becomes and
//! what is said of its run; the file is `cli::shape`'s, virtual time `simulated`'s.

use super::figures::Figures;
use super::parts::{Parts, Run};
use super::shapes::{self, Work};
use super::simulated::{self, Costs, Simulated};
use crate::base::error::Result;
use crate::cli::args::BenchReplayArgs;
use crate::cli::context::{Context, run_long};
use crate::cli::shape::{self, Line, Record};
use crate::graph::items::Items;
use crate::graph::layer::{Pattern, SLOT};
use crate::graph::spec::Input;
use crate::graph::{Family, Graph};
use crate::scheduler::core::event::WorkerSpec;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Worker processes if it is not said how many.
const PROCESSES_MAX: usize = 4;

/// Runs the command; returns the exit code.
///
/// # Errors
/// `File` for a file that is no record; what keeps the run from its end; what [`Figures::finish`] finds.
pub fn replay(context: &Context, args: &BenchReplayArgs) -> Result<u8> {
    let record = Record::read(&args.file)?;
    let graph = graph(&record, args)?;
    let offer = Offer::of(&record, args);
    let figures = match args.simulate {
        true => of_simulation(&simulated::run(&graph, &costs(&record, args), offer.specs())?),
        false => {
            let run = run_long(async {
                let mut parts = Parts::start(&context.config()).await?;
                parts.start_workers_with(offer.nworkers, offer.nthreads, &offer.options()).await?;
                let run = parts.run(graph).await?;
                parts.stop().await?;
                Ok(run)
            })?;
            of_run(&run)
        }
    };
    figures
        .with("simulate", args.simulate)
        .with("nworkers", offer.nworkers)
        .with("nthreads", offer.nthreads)
        .with("scale_time", args.scale_time)
        .with("scale_bytes", args.scale_bytes)
        .with("families", record.header.families)
        .say("edges", shape::count_edges(&record.lines))
        .say("recorded_tasks", record.header.tasks)
        .say("recorded_seconds", record.header.wall_seconds)
        .say("recorded_bytes_moved", record.header.bytes_moved)
        .finish(&args.record)
}

/// The graph of a record, with native tasks.
fn graph(record: &Record, args: &BenchReplayArgs) -> Result<Graph> {
    let families: Vec<Family> = record.lines.iter().map(|line| family(line, args)).collect();
    let graph = Graph { name: "replay".into(), families, ..Graph::default() };
    graph.validate().map_err(|_| first_fault(&graph, &args.file))?;
    Ok(graph)
}

/// What is wrong with the first family that cannot be, and where it stands.
fn first_fault(graph: &Graph, path: &Path) -> crate::base::error::Error {
    let fault = |n: usize| {
        let families = graph.families.get(..n).unwrap_or_default().to_vec();
        Graph { families, ..Graph::default() }.validate().err()
    };
    // The first `good` are right, the first `bad` are not.
    let (mut good, mut bad) = (0, graph.families.len());
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        if fault(middle).is_some() { bad = middle } else { good = middle }
    }
    let what = fault(bad).map_or_else(|| "it has no families".to_owned(), |e| e.message);
    shape::fault(path, bad + 1, what)
}

fn family(line: &Line, args: &BenchReplayArgs) -> Family {
    let mut layer = line.layer();
    for edge in &mut layer.edges {
        if let Pattern::GroupBytes { bytes } = &mut edge.pattern {
            *bytes = scaled(*bytes, args).max(1);
        }
    }
    layer.memory.iter_mut().for_each(|bytes| *bytes = scaled(*bytes, args));
    layer.output_size = layer.output_size.map(|bytes| scaled(bytes, args));
    let name = |n: u32| format!("f{n}");
    let input = |n: u32| Input { producer: name(n), materialize: false, file_name: None };
    let inputs = layer.edges.iter().filter(|e| e.data).map(|e| input(e.producer.0)).collect();
    let sizes: Vec<u64> = line.bytes.iter().map(|bytes| scaled(*bytes, args)).collect();
    let seconds = duration(line, args).as_secs_f64();
    let work = Work {
        function: "replay",
        args: json!({ "seconds": seconds, "sizes": sizes, "draw": line.draws() }),
    };
    let mut spec = shapes::spec(name(line.family), inputs, &work);
    spec.nthreads = layer.slots.div_ceil(SLOT).max(1);
    spec.memory = layer.memory.clone();
    Family { layer, spec, items: Items::Index }
}

fn scaled(bytes: u64, args: &BenchReplayArgs) -> u64 {
    (bytes as f64 * args.scale_bytes).round() as u64
}

fn duration(line: &Line, args: &BenchReplayArgs) -> Duration {
    let seconds = line.duration_us.unwrap_or(0.0) / 1e6 * args.scale_time;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
}

/// What each task of a simulation takes and makes.
fn costs(record: &Record, args: &BenchReplayArgs) -> Vec<Costs> {
    let cost = |line: &Line| Costs {
        duration: duration(line, args),
        sizes: line.bytes.iter().map(|bytes| scaled(*bytes, args)).collect(),
        draw: line.draws(),
    };
    record.lines.iter().map(cost).collect()
}

/// The workers that it runs on.
struct Offer {
    nworkers: u32,
    nthreads: u32,
    memory_limit: Option<u64>,
    /// In 1/10,000.
    resources: BTreeMap<String, u64>,
}

impl Offer {
    /// What was asked for, else what there was, and always enough for the largest task.
    fn of(record: &Record, args: &BenchReplayArgs) -> Offer {
        let workers = &record.header.workers;
        let most = if args.simulate { usize::MAX } else { PROCESSES_MAX };
        let there = u32::try_from(workers.len().clamp(1, most)).unwrap_or(u32::MAX);
        let needed = record.lines.iter().map(|line| line.nthreads);
        let threads = workers.iter().map(|w| w.nthreads).chain(needed).fold(1.0, f64::max).ceil();
        let mut resources = BTreeMap::new();
        let offered = workers.iter().flat_map(|w| &w.resources);
        for (name, amount) in offered.chain(record.lines.iter().flat_map(|line| &line.resources)) {
            let most: &mut u64 = resources.entry(name.clone()).or_default();
            *most = (*most).max(shape::units(*amount));
        }
        let recorded = workers.iter().filter_map(|w| w.memory_limit).max().filter(|_| args.simulate);
        Offer {
            nworkers: args.nworkers.unwrap_or(there),
            nthreads: args.nthreads.unwrap_or(threads.min(f64::from(u32::MAX / SLOT)) as u32),
            memory_limit: args.memory_limit.map(|size| size.0).or(recorded),
            resources,
        }
    }

    /// As options of `hpcdag worker`.
    fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(bytes) = self.memory_limit {
            options.extend(["--memory-limit".to_owned(), bytes.to_string()]);
        }
        let amount = |(name, n): (&String, &u64)| format!("{name}={}", *n as f64 / f64::from(SLOT));
        let amounts: Vec<String> = self.resources.iter().map(amount).collect();
        if !amounts.is_empty() {
            options.extend(["--resources".to_owned(), amounts.join(",")]);
        }
        options
    }

    /// As the state machine knows them.
    fn specs(&self) -> Vec<WorkerSpec> {
        let spec = |w| WorkerSpec {
            slots: self.nthreads.saturating_mul(SLOT),
            resources: self.resources.clone(),
            memory_limit: self.memory_limit,
            memory_target: self.memory_limit.map(|bytes| bytes / 10 * 6),
            ..super::alone::worker_spec(w)
        };
        (0..self.nworkers).map(spec).collect()
    }
}

fn of_run(run: &Run) -> Figures {
    let tasks = run.summary.tasks;
    let mut figures = Figures::new("replay", tasks, run.wall, run.cpu.sum())
        .with("tasks", tasks)
        .say("submit_seconds", run.submit.as_secs_f64())
        .say("task_seconds", run.summary.task_time.as_secs_f64())
        .say("bytes_moved", run.summary.bytes_moved);
    figures.scheduler_bytes_per_task = run.scheduler_bytes.map(|bytes| bytes as f64 / tasks.max(1) as f64);
    figures
}

fn of_simulation(run: &Simulated) -> Figures {
    let mut figures = Figures::new("replay", run.tasks, run.wall, run.cpu)
        .with("tasks", run.tasks)
        .say("simulated_seconds", run.virtual_time.as_secs_f64())
        .say("task_seconds", run.task_time.as_secs_f64())
        .say("bytes_moved", run.bytes_moved)
        .say("peak_result_bytes", run.peak_bytes)
        .say("steps", run.steps);
    figures.scheduler_bytes_per_task = run.core_bytes.map(|bytes| bytes as f64 / run.tasks.max(1) as f64);
    figures
}
