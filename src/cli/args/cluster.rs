//! Arguments of the commands that run, start and end schedulers and workers.

use super::adapt::{WorkersAdaptArgs, WorkersScaleArgs};
use super::jobs::JobOptions;
use super::placement::PlacementOptions;
use super::{JsonOption, SchedulerOptions, Setting, collect};
use crate::base::units::Span;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Where a scheduler or worker listens.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Network")]
pub struct ListenOptions {
    /// Network interfaces in order of preference, e.g. hsn0,ib0,auto
    #[arg(long, value_name = "NAME[,NAME]")]
    pub interface: Option<String>,
    /// Name or address to listen on and to tell others, instead of an interface's
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Port to listen on, or a range such as 40000-40100; 0 takes any
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
}

/// Where a process that runs for long writes its log.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Log")]
pub struct LogOptions {
    /// File to log to, instead of stderr
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Form of the log: text or json
    #[arg(long, value_name = "FORM")]
    pub log_format: Option<String>,
}

impl LogOptions {
    /// The settings among these flags.
    pub fn settings(&self) -> Vec<Setting> {
        collect([("log.format", &self.log_format)])
    }
}

/// What a worker is like.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Worker")]
pub struct WorkerOptions {
    /// How many tasks of one thread run at once on a worker: a number or auto
    #[arg(short = 'c', long, value_name = "N")]
    pub nthreads: Option<String>,
    /// How many processes run a worker's Python calls, each in as many threads as it takes: 4 processes of 24
    /// threads have 6 each. Without it each thread is a process of its own
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..))]
    pub processes: Option<u32>,
    /// Memory of a worker: a size (100GiB), a fraction of the node's (0.5), auto or none
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<String>,
    /// Directory for spilled results and for the tasks' working directories
    #[arg(long, value_name = "DIR")]
    pub local_directory: Option<PathBuf>,
    /// What a worker offers besides threads and memory, e.g. gpus=4,licences=0.5
    #[arg(long, value_name = "NAME=N[,NAME=N]")]
    pub resources: Option<String>,
    /// How long a worker looks for its scheduler before it gives up, e.g. 5m
    #[arg(long, value_name = "TIME")]
    pub death_timeout: Option<String>,
    /// Leave after this long, handing work and results to others first, e.g. 55m
    #[arg(long, value_name = "TIME")]
    pub lifetime: Option<String>,
    /// Vary the lifetime by up to this much, so that workers do not all leave at once
    #[arg(long, value_name = "TIME")]
    pub lifetime_stagger: Option<String>,
    /// Start a new worker in its place when the lifetime is over
    #[arg(long, requires = "lifetime")]
    pub lifetime_restart: bool,
    /// Leave after having had nothing to do for this long
    #[arg(id = "worker-idle-timeout", long = "idle-timeout", value_name = "TIME")]
    pub idle_timeout: Option<String>,
    /// Make the memory that a task declares a hard limit on it
    #[arg(long)]
    pub enforce: bool,
    /// Run native functions in processes of their own, so that one that crashes costs its task only
    #[arg(long)]
    pub isolate_natives: bool,
}

impl WorkerOptions {
    /// The settings among these flags.
    pub fn settings(&self) -> Vec<Setting> {
        let local_directory = self.local_directory.as_ref().map(|d| d.to_string_lossy().into_owned());
        let processes = self.processes.map(|n| n.to_string());
        collect([
            ("worker.nthreads", &self.nthreads),
            ("worker.python.processes", &processes),
            ("worker.memory-limit", &self.memory_limit),
            ("worker.local-directory", &local_directory),
            ("worker.resources", &self.resources),
            ("worker.death-timeout", &self.death_timeout),
            ("worker.lifetime", &self.lifetime),
            ("worker.lifetime-stagger", &self.lifetime_stagger),
            ("worker.lifetime-restart", &self.lifetime_restart.then(|| "true".to_owned())),
            ("worker.idle-timeout", &self.idle_timeout),
            ("worker.memory.enforce", &self.enforce.then(|| "true".to_owned())),
            ("worker.native-isolation", &self.isolate_natives.then(|| "true".to_owned())),
        ])
    }

    /// The same flags as arguments, for handing them on to a worker's own command line.
    pub fn to_args(&self) -> Vec<std::ffi::OsString> {
        let flag = |key: &str| format!("--{}", key.trim_start_matches("worker.")).into();
        let mut args = Vec::new();
        for (key, value) in self.settings() {
            match key {
                "worker.local-directory" => {}
                "worker.python.processes" => args.extend(["--processes".into(), value.into()]),
                "worker.memory.enforce" => args.push("--enforce".into()),
                "worker.lifetime-restart" => args.push("--lifetime-restart".into()),
                "worker.native-isolation" => args.push("--isolate-natives".into()),
                _ => args.extend([flag(key), value.into()]),
            }
        }
        if let Some(directory) = &self.local_directory {
            args.extend([flag("local-directory"), directory.clone().into_os_string()]);
        }
        args
    }
}

/// `hpcdag scheduler`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag scheduler --scheduler-file s.json                in the foreground
  hpcdag scheduler --scheduler-file s.json --detach       back as soon as s.json is valid
  hpcdag scheduler --interface hsn0,ib0,auto              on the fast network where there is one")]
pub struct SchedulerArgs {
    /// File to write for workers and clients: address and credentials, for you alone
    ///
    /// Without it the file is written under $XDG_STATE_HOME/hpcdag, where your other commands find it.
    #[arg(long, value_name = "FILE")]
    pub scheduler_file: Option<PathBuf>,
    /// Run in the background; return once the scheduler file is valid
    #[arg(long)]
    pub detach: bool,
    /// End after having had nothing to do and no client for this long, e.g. 15m
    #[arg(long, value_name = "TIME")]
    pub idle_timeout: Option<String>,
    /// Threads that it runs on; on a login node 2 unless this says otherwise
    #[arg(long, value_name = "N|auto")]
    pub threads: Option<String>,
    /// Where the dashboard is served: HOST:PORT, :PORT (for this machine only), auto or none
    ///
    /// HOST is an address, a name or a network interface of this machine. `hpcdag status` prints what opens
    /// it.
    #[arg(long, value_name = "HOST:PORT")]
    pub dashboard_address: Option<String>,
    /// The id of the cluster, where whoever starts it has to know that before
    #[arg(long, value_name = "ID", hide = true)]
    pub cluster_id: Option<String>,
    /// Where it listens.
    #[command(flatten)]
    pub listen: ListenOptions,
    /// Where it logs.
    #[command(flatten)]
    pub log: LogOptions,
}

impl SchedulerArgs {
    /// The settings among these flags.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = collect([
            ("scheduler.interface", &self.listen.interface),
            ("scheduler.host", &self.listen.host),
            ("scheduler.port", &self.listen.port),
            ("scheduler.idle-timeout", &self.idle_timeout),
            ("scheduler.threads", &self.threads),
            ("scheduler.dashboard-address", &self.dashboard_address),
        ]);
        settings.extend(self.log.settings());
        settings
    }
}

/// `hpcdag worker`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag worker --scheduler-file s.json
  hpcdag worker --scheduler-file s.json --nthreads 16 --memory-limit 60GiB
  srun -N 4 --ntasks-per-node 1 hpcdag worker --scheduler-file s.json

The worker waits for a scheduler that is not there yet. The first SIGTERM lets it hand over work and results \
before it leaves; the second ends it at once.")]
pub struct WorkerArgs {
    /// Name of the worker in listings, instead of one made from the host's
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Do without the parent process that restarts the worker after a crash and clears up after it
    #[arg(long)]
    pub no_nanny: bool,
    /// Leave at once if this cluster has ended
    #[arg(long, value_name = "ID", hide = true)]
    pub join: Option<String>,
    /// Print how the memory limit is found here, what the thresholds are and who enforces the limit, and exit
    #[arg(long)]
    pub explain_memory: bool,
    /// How that is printed.
    #[command(flatten)]
    pub json: JsonOption,
    /// Its width, memory and time.
    #[command(flatten)]
    pub worker: WorkerOptions,
    /// Where it listens.
    #[command(flatten)]
    pub listen: ListenOptions,
    /// Where it logs.
    #[command(flatten)]
    pub log: LogOptions,
    /// Whose worker it is.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
}

impl WorkerArgs {
    /// The settings among these flags.
    pub fn settings(&self) -> Vec<Setting> {
        let no_nanny = self.no_nanny.then(|| "false".to_owned());
        let mut settings = self.worker.settings();
        settings.extend(collect([
            ("worker.interface", &self.listen.interface),
            ("worker.host", &self.listen.host),
            ("worker.port", &self.listen.port),
            ("worker.nanny", &no_nanny),
        ]));
        settings.extend(self.log.settings());
        settings
    }
}

/// `hpcdag workers`
#[derive(Clone, Debug, Args)]
pub struct WorkersArgs {
    /// What to do with the workers.
    #[command(subcommand)]
    pub command: WorkersCommand,
}

/// What can be done with workers.
#[derive(Clone, Debug, Subcommand)]
pub enum WorkersCommand {
    /// Start workers: on the nodes of the allocation that this is in, or on this machine
    Start(Box<WorkersStartArgs>),
    /// List the workers of a cluster, and the jobs they are in
    List(WorkersListArgs),
    /// Let workers leave: they hand over their work and results first
    Stop(WorkersStopArgs),
    /// Wait until there are so many workers
    Wait(WorkersWaitArgs),
    /// Have so many jobs of workers: submit the missing ones, or let some leave
    Scale(Box<WorkersScaleArgs>),
    /// Have as many jobs of workers as the work is worth, until interrupted
    Adapt(Box<WorkersAdaptArgs>),
}

/// `hpcdag workers start`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag workers start                       inside a job: one on each of its nodes
  hpcdag workers start --hosts a,b,n[1-8]    on these hosts, by ssh
  hpcdag workers start --per numa --min-workers 60 --start-timeout 2m
  hpcdag workers start --launcher local -n 2 --nthreads 8 --memory-limit 30GiB
  hpcdag workers start --launcher sbatch -N 16 --walltime 2h -p short -- --reservation=x

Without --nthreads the workers of a node share its processors among them.")]
pub struct WorkersStartArgs {
    /// Where they go.
    #[command(flatten)]
    pub placement: PlacementOptions,
    /// How long the workers may take to connect
    #[arg(long, value_name = "TIME", default_value = "5m", help_heading = "Placement")]
    pub start_timeout: Span,
    /// A job as [launch.pool.NAME] of the configuration describes it; options win
    #[arg(long, value_name = "NAME", help_heading = "Placement")]
    pub pool: Option<String>,
    /// What jobs they are in, with a launcher that submits some.
    #[command(flatten)]
    pub jobs: JobOptions,
    /// What they are like.
    #[command(flatten)]
    pub worker: WorkerOptions,
    /// Where they listen.
    #[command(flatten)]
    pub listen: ListenOptions,
    /// Whose workers they are.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How the answer is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag workers list`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag workers list --json | jq length
  hpcdag workers list --jobs --json")]
pub struct WorkersListArgs {
    /// Only the jobs that were submitted for workers
    #[arg(long)]
    pub jobs: bool,
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How they are printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag workers stop`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag workers stop node12-0 node13-0
  hpcdag workers stop 4711                   a job, with its workers
  hpcdag workers stop --all")]
pub struct WorkersStopArgs {
    /// Names of workers, or ids of jobs, as `workers list` shows them
    #[arg(value_name = "WORKER|JOB", required_unless_present = "all")]
    pub workers: Vec<String>,
    /// All workers and all their jobs; the scheduler stays
    #[arg(long, conflicts_with = "workers")]
    pub all: bool,
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How the answer is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag workers wait`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag workers wait 16 --timeout 10m && ./analysis.sh")]
pub struct WorkersWaitArgs {
    /// How many workers there must be
    #[arg(value_name = "N")]
    pub count: u32,
    /// Give up after this long
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub timeout: Span,
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How the answer is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// The cluster that `up` and `run` put up.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// Where the workers go.
    #[command(flatten)]
    pub placement: PlacementOptions,
    /// Scheduler file to write, if not the usual one that your other commands find by themselves
    #[arg(long, value_name = "FILE")]
    pub scheduler_file: Option<PathBuf>,
    /// Network interfaces of scheduler and workers in order of preference, e.g. hsn0,ib0,auto
    #[arg(long, value_name = "NAME[,NAME]")]
    pub interface: Option<String>,
    /// Where the scheduler serves the dashboard: HOST:PORT, :PORT (for its machine only), auto or none
    #[arg(long, value_name = "HOST:PORT")]
    pub dashboard_address: Option<String>,
    /// Give up if the cluster is not complete after this long
    #[arg(long, value_name = "TIME", default_value = "5m", visible_alias = "start-timeout")]
    pub timeout: Span,
    /// What the workers are like.
    #[command(flatten)]
    pub worker: WorkerOptions,
    /// How the answer is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

impl UpArgs {
    /// The settings among these flags.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = self.worker.settings();
        settings.extend(collect([
            ("scheduler.interface", &self.interface),
            ("worker.interface", &self.interface),
            ("scheduler.dashboard-address", &self.dashboard_address),
        ]));
        settings
    }
}

/// `hpcdag down`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag down --scheduler-file s.json")]
pub struct DownArgs {
    /// Which one.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How the answer is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag clusters`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag clusters --json")]
pub struct ClustersArgs {
    /// How they are printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag stop`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag stop --scheduler-file s.json

Runs that have not ended are cancelled; results that nobody fetched are lost.")]
pub struct StopArgs {
    /// Which one.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How the answer is printed.
    #[command(flatten)]
    pub json: JsonOption,
}
