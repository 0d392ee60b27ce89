//! Arguments of `hpcdag bench spawn`, `start` and `submit`.

use super::bench::RecordOptions;
use super::value::positive;
use clap::Args;

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
