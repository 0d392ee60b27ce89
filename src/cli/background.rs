//! Schedulers and workers in the background of this machine: their command lines, logs, and when they are
//! ready. Owns that; `detach` separates processes from the terminal, `up` and `workers start` put them
//! together.

use super::args::{ListenOptions, SchedulerArgs, Setting, Verbosity, WorkerOptions};
use super::context::absolute;
use super::detach::Background;
use super::processes::{self, Record, StepRecord};
use super::signals;
use crate::base::error::{Error, Kind, Result};
use crate::launch::{Launched, Launcher, Order};
use crate::net::private_file;
use crate::net::scheduler_file::{self, Liveness, SchedulerFile};
use crate::net::state_dir::StateDir;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a scheduler may take until its file is valid.
pub const SCHEDULER_TIMEOUT: Duration = Duration::from_secs(30);

/// A scheduler to start.
#[derive(Clone, Debug)]
pub struct SchedulerOrder {
    /// Its file, if not the usual one.
    pub file: Option<PathBuf>,
    /// Its other arguments.
    pub args: Vec<OsString>,
    /// Its log, if not in the cluster's directory.
    pub log: Option<PathBuf>,
}

impl SchedulerOrder {
    /// What `scheduler --detach` asks for.
    ///
    /// # Errors
    /// `File` when this process's directory is gone.
    pub fn of(args: &SchedulerArgs, verbosity: Verbosity) -> Result<SchedulerOrder> {
        let mut order = SchedulerOrder {
            file: args.scheduler_file.as_deref().map(absolute).transpose()?,
            args: flags(&args.settings()),
            log: args.log.log_file.as_deref().map(absolute).transpose()?,
        };
        order.args.extend(verbosity_args(verbosity));
        Ok(order)
    }
}

/// A scheduler that is ready.
#[derive(Clone, Debug)]
pub struct StartedScheduler {
    /// Its process.
    pub pid: u32,
    /// Its file.
    pub path: PathBuf,
    /// What that says.
    pub file: SchedulerFile,
}

/// Settings as flags: those of schedulers and workers are named as their keys' last parts.
fn flags(settings: &[Setting]) -> Vec<OsString> {
    let flag = |key: &str| format!("--{}", key.rsplit('.').next().unwrap_or(key));
    settings
        .iter()
        .flat_map(|(key, value)| match *key {
            "log.format" => [OsString::from("--log-format"), value.into()],
            key => [flag(key).into(), value.into()],
        })
        .collect()
}

fn verbosity_args(verbosity: Verbosity) -> impl Iterator<Item = OsString> {
    let repeat = |flag: &'static str, n: u8| std::iter::repeat_n(OsString::from(flag), n.into());
    repeat("--verbose", verbosity.verbose).chain(repeat("--quiet", verbosity.quiet))
}

/// Variables whose relative paths would mean something else in a background process, which runs in `/`.
pub(super) fn anchored_variables() -> Result<Vec<(OsString, OsString)>> {
    let mut variables = Vec::new();
    for name in ["HPCDAG_CONFIG", "TMPDIR"] {
        if let Some(path) = std::env::var_os(name).filter(|p| !p.is_empty()) {
            variables.push((name.into(), absolute(Path::new(&path))?.into()));
        }
    }
    Ok(variables)
}

/// Starts a scheduler in the background; returns once its file is there and it answers.
///
/// # Errors
/// `Launch` with its last log lines when it ends before; `Timeout`.
pub fn start_scheduler(order: &SchedulerOrder, timeout: Duration) -> Result<StartedScheduler> {
    let here = |args, log: &Path| Background::of_this_program("the scheduler", args, log);
    start_scheduler_as(order, timeout, here, |file, pid| file.pid == pid, None)
}

/// Starts a scheduler as a process that `process` makes of its arguments and its log. `is_ours` tells by its
/// file, and the number of the process started, whether a scheduler is the one.
///
/// # Errors
/// As [`start_scheduler`].
pub(super) fn start_scheduler_as(
    order: &SchedulerOrder,
    timeout: Duration,
    process: impl FnOnce(Vec<OsString>, &Path) -> Background,
    is_ours: impl Fn(&SchedulerFile, u32) -> bool,
    step: Option<StepRecord>,
) -> Result<StartedScheduler> {
    let state = StateDir::of_user()?;
    // Its directory is known only once it has started; until then it logs to a directory of its own.
    let starting = state.cluster(&format!("starting-{:08x}", fastrand::u32(..)))?;
    starting.create()?;
    let log = order.log.clone().unwrap_or_else(|| starting.log());
    let mut args: Vec<OsString> = vec!["scheduler".into()];
    args.extend(order.args.iter().cloned());
    if let Some(file) = &order.file {
        args.extend(["--scheduler-file".into(), file.clone().into()]);
    }
    let mut background = process(args, &log);
    background.env.extend(anchored_variables()?);
    let named = order.file.as_deref();
    let started = background.start(timeout, |pid| {
        signals::go_on()?;
        find_file(&state, named, |file| is_ours(file, pid))
    });
    let result = match started {
        Ok(started) => {
            let (path, file) = started.value;
            let started = StartedScheduler { pid: started.pid, path, file };
            settle(&state, &log, order.log.is_none(), &started, step).map(|()| started)
        }
        // The last lines are in the message; the log itself goes with its directory.
        Err(e) if order.log.is_none() => {
            std::fs::remove_file(&log).map_err(|e| Error::file("cannot remove", &log, &e))?;
            // That a file cannot be written has a way on; that the log is there has not.
            Err(Error { hint: e.hint.filter(|_| e.kind == Kind::File), ..e })
        }
        Err(e) => Err(e),
    };
    starting.remove()?;
    result
}

/// The file of the scheduler that is meant, once that answers.
fn find_file(
    state: &StateDir,
    named: Option<&Path>,
    is_ours: impl Fn(&SchedulerFile) -> bool,
) -> Result<Option<(PathBuf, SchedulerFile)>> {
    let candidates = match named {
        Some(path) => vec![(path.to_owned(), scheduler_file::read(path).ok())],
        None => state.clusters()?.into_iter().map(|l| (l.path, l.file.ok())).collect(),
    };
    let ours = candidates.into_iter().find_map(|(path, file)| Some((path, file.filter(&is_ours)?)));
    let Some((path, file)) = ours else { return Ok(None) };
    match super::context::run_short(async { Ok(scheduler_file::probe(&file).await) })? {
        Liveness::Alive => Ok(Some((path, file))),
        Liveness::NobodyAnswers(_) | Liveness::OtherAnswers(_) => Ok(None),
    }
}

/// Moves the log to where the cluster's other files are, and notes the process there.
fn settle(
    state: &StateDir,
    log: &Path,
    is_ours: bool,
    started: &StartedScheduler,
    step: Option<StepRecord>,
) -> Result<()> {
    let home = state.cluster(&started.file.id)?;
    home.create()?;
    let mut place = log.to_owned();
    if is_ours {
        place = home.log();
        std::fs::rename(log, &place).map_err(|e| Error::file("cannot move the log to", &place, &e))?;
    }
    // Without a record it has ended already, which whoever uses it will notice.
    match Record::of(started.pid, &place) {
        Some(record) => processes::note(home.path(), &[Record { step, ..record }]),
        None => Ok(()),
    }
}

/// Workers as processes of this machine.
pub struct Local;

impl Launcher for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn start(&self, order: &Order) -> (Vec<Launched>, Result<()>) {
        let mut launched = Vec::new();
        for _ in 0..order.nworkers {
            match start_worker(order) {
                Ok(worker) => launched.push(worker),
                Err(e) => return (launched, Err(e)),
            }
        }
        (launched, Ok(()))
    }
}

fn start_worker(order: &Order) -> Result<Launched> {
    private_file::make_directory(&order.logs)?;
    let log = order.logs.join(format!("worker-{:08x}.log", fastrand::u32(..)));
    let mut args: Vec<OsString> = vec!["worker".into()];
    args.extend(order.args.iter().cloned());
    let mut background = Background::of_this_program("the worker", args, &log);
    background.env = anchored_variables()?;
    // It is ready when it has registered, which is waited for with all others.
    let started = background.start(SCHEDULER_TIMEOUT, |_| Ok(Some(())))?;
    processes::note(&order.logs, &[Record::of_any(started.pid, &log)])?;
    Ok(Launched { id: started.pid.to_string(), log })
}

/// The arguments of workers of a cluster.
///
/// # Errors
/// `File` when this process's directory is gone.
pub fn worker_args(
    scheduler_file: &Path,
    address: Option<&str>,
    worker: &WorkerOptions,
    listen: &ListenOptions,
    verbosity: Verbosity,
) -> Result<Vec<OsString>> {
    let mut args: Vec<OsString> = vec!["--scheduler-file".into(), absolute(scheduler_file)?.into()];
    if let Some(address) = address {
        args.extend(["--address".into(), address.into()]);
    }
    let mut worker = worker.clone();
    worker.local_directory = worker.local_directory.as_deref().map(absolute).transpose()?;
    args.extend(worker.to_args());
    let listen = [("interface", &listen.interface), ("host", &listen.host), ("port", &listen.port)];
    for (name, value) in listen {
        if let Some(value) = value {
            args.extend([format!("--{name}").into(), value.into()]);
        }
    }
    args.extend(verbosity_args(verbosity));
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    #[test]
    fn orders_are_command_lines_again() {
        let line =
            ["hpcdag", "scheduler", "--port", "4000-4001", "--log-format", "json", "--idle-timeout", "5m"];
        let Command::Scheduler(args) = Cli::parse_from(line).command else { panic!("another command") };
        let order = SchedulerOrder::of(&args, Verbosity { verbose: 2, quiet: 0 }).unwrap();
        let again = ["hpcdag", "scheduler"].map(OsString::from).into_iter().chain(order.args);
        let parsed = Cli::parse_from(again);
        let Command::Scheduler(again) = parsed.command else { panic!("another command") };
        assert_eq!((again.settings(), parsed.verbosity.verbose), (args.settings(), 2));

        let worker = WorkerOptions {
            nthreads: Some("3".into()),
            local_directory: Some("d".into()),
            enforce: true,
            ..Default::default()
        };
        let listen = ListenOptions { interface: Some("lo".into()), ..Default::default() };
        let args =
            worker_args(Path::new("/s.json"), Some("h:1"), &worker, &listen, Verbosity::default()).unwrap();
        let Command::Worker(again) =
            Cli::parse_from(["hpcdag", "worker"].map(OsString::from).into_iter().chain(args)).command
        else {
            panic!("another command")
        };
        assert_eq!(again.worker.nthreads.as_deref(), Some("3"));
        assert!(again.worker.enforce && !again.worker.isolate_natives);
        assert!(again.worker.local_directory.is_some_and(|d| d.is_absolute()));
        assert_eq!(again.listen.interface.as_deref(), Some("lo"));
        assert_eq!(again.scheduler.address.as_deref(), Some("h:1"));
    }
}
