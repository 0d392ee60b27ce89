//! Arguments of `hpcdag bench spawn`, `start`, `submit` and `replay`.

use super::bench::RecordOptions;
use super::value::positive;
use crate::base::units::ByteSize;
use clap::Args;
use std::path::PathBuf;

/// A factor.
fn factor(text: &str) -> Result<f64, String> {
    let known = text.parse::<f64>().ok().filter(|f| f.is_finite() && *f >= 0.0);
    known.ok_or_else(|| "expected a number that is not negative, e.g. 0.1".into())
}

/// `hpcdag bench spawn`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag bench spawn --tasks 20000 --json

Commands that do nothing (`true`), their stdout and stderr captured, on one worker with two slots; \
and a bare loop that starts as many with two threads, opening the same kinds of files. Both in turn, several \
times; what is said of each is its fastest round.")]
pub struct BenchSpawnArgs {
    /// How many tasks in each round
    #[arg(long, value_name = "N", default_value_t = 4000, value_parser = positive())]
    pub tasks: u32,
    /// How many rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = positive())]
    pub rounds: u32,
    /// What is done with the figures.
    #[command(flatten)]
    pub record: RecordOptions,
}

/// `hpcdag bench start`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag bench start --rounds 20

From nothing to the first result: a scheduler, workers and a client that submits one task are started at the \
same time, each a process of its own. Beside it, the time of a process of this program that does nothing.")]
pub struct BenchStartArgs {
    /// How many workers
    #[arg(short, long, value_name = "N", default_value_t = 2, value_parser = positive())]
    pub nworkers: u32,
    /// How many rounds; the middle one counts
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = positive())]
    pub rounds: u32,
    /// What is done with the figures.
    #[command(flatten)]
    pub record: RecordOptions,
}

/// `hpcdag bench submit`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag bench submit --tasks 200000

Writes a graph file (JSON) of tasks with a key of their own and three dependencies each, and submits it to a \
scheduler: the time until the scheduler knows all of it, and the most memory that the client occupies.")]
pub struct BenchSubmitArgs {
    /// How many tasks
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = positive())]
    pub tasks: u32,
    /// How many rounds; the fastest one counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive())]
    pub rounds: u32,
    /// What is done with the figures.
    #[command(flatten)]
    pub record: RecordOptions,
}

/// `hpcdag bench replay`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag submit graph.toml --local --record shape.ndjson
  hpcdag bench replay shape.ndjson --scale-time 0.1 --nworkers 2 --nthreads 1
  hpcdag bench replay shape.ndjson --simulate --json

The same edges, with native tasks that compute as long and make as many bytes; or, simulated, only the \
scheduler's decisions, in virtual time. Moving results takes no time there, and no worker is ever lost.")]
pub struct BenchReplayArgs {
    /// What `submit --record` wrote
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only the scheduler's state machine, with tasks that take virtual time
    #[arg(long)]
    pub simulate: bool,
    /// How many workers; as many as there were, without --simulate at most 4
    #[arg(short, long, value_name = "N", value_parser = positive())]
    pub nworkers: Option<u32>,
    /// Threads of each; as many as the largest had
    #[arg(short = 'c', long, value_name = "N", value_parser = positive())]
    pub nthreads: Option<u32>,
    /// Memory of each worker; with --simulate as it was, else what a worker takes
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<ByteSize>,
    /// Tasks take so many times as long
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    pub scale_time: f64,
    /// Results are so many times as large
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    pub scale_bytes: f64,
    /// What is done with the figures.
    #[command(flatten)]
    pub record: RecordOptions,
}
