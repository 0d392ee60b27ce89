//! Arguments of `hpcdag bench`.

use super::JsonOption;
use super::bench_commands::{BenchReplayArgs, BenchSpawnArgs, BenchStartArgs, BenchSubmitArgs};
use super::value::positive;
use crate::base::units::{ByteSize, Span};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// `hpcdag bench`
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What is measured.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What `hpcdag bench` measures.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// How much memory workers hold while they run a graph of known shape
    Memory(BenchMemoryArgs),
    /// The scheduler's decisions alone: no sockets, workers that finish at once
    Core(BenchCoreArgs),
    /// The scheduler with real messages over TLS, and pretended workers that finish at once
    ZeroWorker(BenchZeroWorkerArgs),
    /// Tasks that do nothing, on a real worker
    Tasks(BenchTasksArgs),
    /// The shortest tasks that are worth it: METG(50 %) of a stencil
    Stencil(BenchStencilArgs),
    /// Many workers at once: how soon they are let in, and what they cost afterwards
    Connections(BenchConnectionsArgs),
    /// Commands, against a bare loop that starts processes
    Spawn(BenchSpawnArgs),
    /// A whole cluster, from nothing to the first result
    Start(BenchStartArgs),
    /// A large graph file, until the scheduler knows all of it
    Submit(BenchSubmitArgs),
    /// A run that `hpcdag submit --record` kept the shape of, once more
    Replay(BenchReplayArgs),
    /// The pretended workers of zero-worker and connections
    #[command(hide = true)]
    Sessions(BenchSessionsArgs),
}

/// `hpcdag bench memory`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag bench memory side-chain --memory-limit 512MiB --total 8GiB
  hpcdag bench memory spill --local-directory /scratch --json

Starts a scheduler and workers on this machine, runs the graph, and ends them. Then the same without \
admission by bytes and without thresholds, to compare time and result. Fractions are of the memory limit.")]
pub struct BenchMemoryArgs {
    /// Shape of the graph
    #[arg(value_name = "WORKLOAD")]
    pub workload: Shape,
    /// How many workers
    #[arg(short, long, value_name = "N", default_value_t = 2, value_parser = positive())]
    pub nworkers: u32,
    /// Threads of each worker
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1, value_parser = positive())]
    pub nthreads: u32,
    /// Memory of each worker
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    pub memory_limit: ByteSize,
    /// Bytes that the graph loads in all; by default a multiple of the cluster's memory
    ///
    /// 8 times for side-chain, map-sum, map-sum-slow and double-diff, 4 for anomaly, 1.8 for spill, a quarter
    /// for all-pairs, 40 times for transient (what its tasks occupy one after the other).
    #[arg(long, value_name = "SIZE")]
    pub total: Option<ByteSize>,
    /// Bytes of a large result; by default a sixteenth of a worker's memory, for double-diff half of that
    #[arg(long, value_name = "SIZE")]
    pub chunk: Option<ByteSize>,
    /// Directory for what the workers spill
    #[arg(long, value_name = "DIR")]
    pub local_directory: Option<PathBuf>,
    /// Give up after this long
    #[arg(long, value_name = "TIME", default_value = "30m")]
    pub timeout: Span,
    /// Run only without admission and thresholds
    #[arg(long)]
    pub unlimited: bool,
    /// Do without the run to compare with
    #[arg(long, conflicts_with = "unlimited")]
    pub no_compare: bool,
    /// How the figures are printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// Shapes of graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Two variables, each padded by its neighbours' edges, merged
    SideChain,
    /// A mean of everything, subtracted from everything
    Anomaly,
    /// Loads, reduced
    MapSum,
    /// Loads, each mapped for 100 ms, reduced
    MapSumSlow,
    /// Two grids, each cell of one with neighbours of both
    DoubleDiff,
    /// Every load with every other
    AllPairs,
    /// More than fits, kept and read back
    Spill,
    /// Memory that is no result, for random times
    Transient,
}

/// What is done with the figures of a benchmark.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct RecordOptions {
    /// How the figures are printed.
    #[command(flatten)]
    pub json: JsonOption,
    /// Keep the figures in this file, in place of those of the same benchmark with the same options
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Compare with the figures of this file; bytes and instructions beyond the bound end with an error
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// By how many percent bytes and instructions may have grown
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, requires = "compare")]
    pub bound: f64,
}

/// The graph of a benchmark of speed.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Graph")]
pub struct GraphOptions {
    /// How many tasks, about: shapes round it
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = positive())]
    pub tasks: u32,
    /// What depends on what
    #[arg(long, value_name = "SHAPE", value_enum, default_value_t)]
    pub shape: GraphShape,
    /// Tasks as elements of families, or each with a key and dependencies of its own
    #[arg(long, value_name = "KIND", value_enum, default_value_t)]
    pub keys: Keys,
    /// Tasks side by side in a stencil; by default the square root of their number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..))]
    pub width: Option<u32>,
}

/// What depends on what in a graph that measures speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum GraphShape {
    /// Nothing on anything
    #[default]
    Independent,
    /// Each on three neighbours of the step before, round a ring
    Stencil,
    /// A binary tree from half of the tasks to one
    Tree,
    /// One on all others
    Merge,
}

/// How a graph says its tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Keys {
    /// As elements of families with patterns
    #[default]
    Family,
    /// Each by itself
    Individual,
}

/// `hpcdag bench core`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag bench core --tasks 1000000 --shape stencil
  hpcdag bench core --tasks 1000000 --shape stencil --keys individual --json
  hpcdag bench core --count-instructions

Times are those of the scheduler's state machine only. Bytes are those of the heap once the scheduler knows \
all tasks, the graph as it was submitted included.")]
pub struct BenchCoreArgs {
    /// The graph.
    #[command(flatten)]
    pub graph: GraphOptions,
    /// How many workers
    #[arg(short, long, value_name = "N", default_value_t = 2, value_parser = positive())]
    pub nworkers: u32,
    /// Run once more under valgrind's callgrind and count instructions
    #[arg(long)]
    pub count_instructions: bool,
    /// What is done with the figures.
    #[command(flatten)]
    pub record: RecordOptions,
}

/// `hpcdag bench zero-worker`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag bench zero-worker --tasks 1000000
  hpcdag bench zero-worker --shape stencil --nworkers 10 --json

A scheduler process, a process with the sessions of all pretended workers, and this one as the client. \
Nothing is executed and no result moves.")]
pub struct BenchZeroWorkerArgs {
    /// The graph.
    #[command(flatten)]
    pub graph: GraphOptions,
    /// How many workers, each with a connection of its own
    #[arg(short, long, value_name = "N", default_value_t = 2, value_parser = positive())]
    pub nworkers: u32,
    /// What is done with the figures.
    #[command(flatten)]
    pub record: RecordOptions,
}

/// `hpcdag bench tasks`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag bench tasks
  hpcdag bench tasks --shape stencil --nworkers 2 --json
  hpcdag bench tasks --tasks 2000000 --viewers 3

A scheduler process, worker processes, and this one as the client; the tasks are native functions that do \
nothing.")]
pub struct BenchTasksArgs {
    /// The graph.
    #[command(flatten)]
    pub graph: GraphOptions,
    /// How many worker processes
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = positive())]
    pub nworkers: u32,
    /// Threads of each
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1, value_parser = positive())]
    pub nthreads: u32,
    /// How many look at the cluster meanwhile: each asks every second for what the dashboard's pages show
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub viewers: u32,
    /// What is done with the figures.
    #[command(flatten)]
    pub record: RecordOptions,
}

/// `hpcdag bench stencil`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag bench stencil
  hpcdag bench stencil --nworkers 2 --tasks 25600 --json

Runs the stencil with tasks that compute for shorter and shorter times. Efficiency by CPU is the processor \
time of that computing as a part of all that client, scheduler and workers use; by wall it is that time \
divided by what the workers' threads could have computed meanwhile. METG(50 %) is the length at which it is \
one half.")]
pub struct BenchStencilArgs {
    /// How many tasks in each run, about
    #[arg(long, value_name = "N", default_value_t = 12_800, value_parser = positive())]
    pub tasks: u32,
    /// Tasks side by side
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(3..))]
    pub width: u32,
    /// How many worker processes
    #[arg(short, long, value_name = "N", default_value_t = 2, value_parser = positive())]
    pub nworkers: u32,
    /// Threads of each
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1, value_parser = positive())]
    pub nthreads: u32,
    /// The longest tasks, from which it goes down
    #[arg(long, value_name = "TIME", default_value = "1ms")]
    pub longest: Span,
    /// What is done with the figures.
    #[command(flatten)]
    pub record: RecordOptions,
}

/// `hpcdag bench connections`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag bench connections --nworkers 2000
  hpcdag bench connections --nworkers 200 --tasks 20000 --json

The pretended workers connect all at once. What they run then is what zero-worker runs, once with all of \
them and once with ten.")]
pub struct BenchConnectionsArgs {
    /// The graph.
    #[command(flatten)]
    pub graph: GraphOptions,
    /// How many workers
    #[arg(short, long, value_name = "N", default_value_t = 2000, value_parser = positive())]
    pub nworkers: u32,
    /// What is done with the figures.
    #[command(flatten)]
    pub record: RecordOptions,
}

/// `hpcdag bench sessions`
#[derive(Clone, Debug, Args)]
pub struct BenchSessionsArgs {
    /// The scheduler
    #[arg(long, value_name = "FILE")]
    pub scheduler_file: PathBuf,
    /// How many workers
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = positive())]
    pub nworkers: u32,
}
