//! `hpcdag bench submit`: a large graph file on its way to the scheduler. Owns the file, and what is measured
//! of the process that submits it.

use super::figures::Figures;
use super::start::Part;
use super::usage;
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::BenchSubmitArgs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Tasks side by side.
const WIDTH: u32 = 1000;

/// How long the scheduler may take to be there.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// One round.
#[derive(Clone, Copy, Debug)]
struct Round {
    wall: Duration,
    client_cpu: Duration,
    scheduler_cpu: Duration,
    client_bytes: u64,
    scheduler_bytes: Option<u64>,
}

/// Runs the command; returns the exit code.
///
/// # Errors
/// `File` when the graph cannot be written, `Launch` when it is not accepted; what [`Figures::finish`] finds.
pub fn submit(args: &BenchSubmitArgs) -> Result<u8> {
    let fault = |e: std::io::Error| Error::os("cannot make a directory for the graph", e);
    let directory = tempfile::Builder::new().prefix("hpcdag-bench-").tempdir().map_err(fault)?;
    let path = directory.path().join("graph.json");
    let size = write_graph(&path, args.tasks).map_err(|e| Error::file("cannot write", &path, &e))?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        rounds.push(round(&path)?);
    }
    let Some(best) = rounds.iter().min_by_key(|round| round.wall) else { return Ok(0) };
    let mut figures =
        Figures::new("submit", args.tasks.into(), best.wall, best.client_cpu + best.scheduler_cpu)
            .with("tasks", args.tasks)
            .say("file_bytes", size)
            .say("client_cpu_seconds", best.client_cpu.as_secs_f64())
            .say("scheduler_cpu_seconds", best.scheduler_cpu.as_secs_f64())
            .say("client_peak_bytes", rounds.iter().map(|round| round.client_bytes).max());
    figures.scheduler_bytes_per_task = best.scheduler_bytes.map(|b| b as f64 / f64::from(args.tasks));
    figures.finish(&args.record)
}

/// Writes a graph of single tasks, of which each needs three of those before: its left, upper and right
/// neighbours. Returns its size in bytes.
fn write_graph(path: &Path, tasks: u32) -> std::io::Result<u64> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    write!(file, "{{\"version\": 1, \"task\": {{")?;
    let width = WIDTH.min(tasks);
    for at in 0..tasks {
        let comma = if at == 0 { "" } else { "," };
        write!(file, "{comma}\n\"cell-{at}\": {{\"argv\": [\"true\"]")?;
        if at >= width {
            let (above, column) = (at - width - at % width, at % width);
            let left = above + (column + width - 1) % width;
            let right = above + (column + 1) % width;
            let mut inputs = vec![left, at - width, right];
            inputs.dedup();
            let inputs: Vec<_> = inputs.iter().map(|input| format!("\"cell-{input}\": \"all\"")).collect();
            write!(file, ", \"from\": {{{}}}", inputs.join(", "))?;
        }
        write!(file, "}}")?;
    }
    writeln!(file, "\n}}}}")?;
    file.into_inner()?.metadata().map(|meta| meta.len())
}

fn round(graph: &Path) -> Result<Round> {
    let fault = |e: std::io::Error| Error::os("cannot make a directory for the scheduler", e);
    let directory = tempfile::Builder::new().prefix("hpcdag-bench-").tempdir().map_err(fault)?;
    let file = directory.path().join("scheduler.json");
    let (Some(file_text), Some(graph)) = (file.to_str(), graph.to_str()) else {
        return Err(Error::new(Kind::File, "the directory for temporary files is not UTF-8"));
    };
    let by_file = ["--scheduler-file", file_text];
    let args = [&["scheduler", "--host", "127.0.0.1"], &by_file[..]].concat();
    let mut scheduler = Part::start(&args, Some(&directory))?;
    let begin = Instant::now();
    while !file.exists() {
        if begin.elapsed() > START_TIMEOUT {
            return Err(Error::new(Kind::Timeout, "the scheduler did not come up"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let of_scheduler = (scheduler.id(), usage::anonymous_bytes(scheduler.id()));
    let cpu = || usage::cpu_of(of_scheduler.0).unwrap_or_default();
    let (begin, before) = (Instant::now(), cpu());
    let args = [&["submit", "--detach"], &by_file[..], &[graph]].concat();
    let used = Part::start(&args, Some(&directory))?.wait_with_usage()?;
    let wall = begin.elapsed();
    let grown = usage::anonymous_bytes(of_scheduler.0)
        .zip(of_scheduler.1)
        .map(|(now, then)| now.saturating_sub(then));
    let round = Round {
        wall,
        client_cpu: used.cpu,
        scheduler_cpu: cpu().saturating_sub(before),
        client_bytes: used.peak_bytes,
        scheduler_bytes: grown,
    };
    let mut stop = Part::start(&[&["stop"], &by_file[..]].concat(), Some(&directory))?;
    stop.wait()?;
    scheduler.wait()?;
    Ok(round)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::file::load;

    #[test]
    fn the_graph_has_as_many_tasks_and_three_dependencies_each() {
        let directory = tempfile::tempdir().unwrap();
        for (tasks, edges) in [(1, 0), (1000, 0), (2500, 3 * 1500)] {
            let path = directory.path().join("g.json");
            let size = write_graph(&path, tasks).unwrap();
            assert_eq!(size, path.metadata().unwrap().len());
            let graph = load(&path, &Default::default()).unwrap();
            assert_eq!(graph.families.len(), tasks as usize);
            let found: usize = graph.families.iter().map(|f| f.spec.inputs.len()).sum();
            assert_eq!(found, edges);
        }
    }
}
