//! `hpcdag scheduler` and `hpcdag worker`: processes that serve until they are told to end. Owns what belongs
//! to the whole process; serving is the modules' own.

use super::allocation;
use super::args::{SchedulerArgs, WorkerArgs};
use super::background::{self, SchedulerOrder};
use super::context::{Context, Logger, Role, run_as, run_short};
use super::jobs;
use super::output::{self, Out};
use super::signals::{Requests, SAME_REQUEST};
use super::steer::let_workers_go;
use crate::base::error::{Error, Kind, Result};
use crate::client::{Client, ConnectOptions};
use crate::cluster::{place_of, serve_dashboard};
use crate::config::Config;
use crate::dashboard::Front;
use crate::launch::slurm::environment::{self, Share};
use crate::net::{discovery, scheduler_file, state_dir};
use crate::scheduler::{self, Scheduler};
use crate::worker;
use crate::worker::executor::native::Registry;
use crate::worker::executor::processes::{self, Program};
use crate::worker::nanny::{self, NannyOptions};
use crate::worker::process;
use crate::worker::supervision::Supervision;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// `scheduler`: in the foreground until its end, or started in the background.
///
/// # Errors
/// What keeps it from starting; what it could not clean up.
pub fn scheduler(context: &Context, args: &SchedulerArgs) -> Result<u8> {
    if args.detach {
        context.start_log(&Logger::Short)?;
        context.tell_threads(Role::Scheduler);
        let order = SchedulerOrder::of(args, context.verbosity)?;
        let started = background::start_scheduler(&order, background::SCHEDULER_TIMEOUT)?;
        Out::stdout().line(started.path.display().to_string())?;
        return Ok(0);
    }
    context.start_log(&Logger::Long(&args.log))?;
    process::forbid_core_files()?;
    process::forbid_inspection()?;
    process::raise_open_files()?;
    // In the background it was said by whoever has started it.
    if std::io::stderr().is_terminal() {
        context.tell_threads(Role::Scheduler);
    }
    let mut options = scheduler::Options {
        config: context.config(),
        scheduler_file: args.scheduler_file.clone(),
        cluster: args.cluster_id.clone(),
        job_id: state_dir::batch_job_id(),
        dashboard: None,
        embedded: false,
    };
    let grace = options.job_id.as_ref().map(|_| context.config());
    let config = context.config();
    run_as(context, Role::Scheduler, async {
        let mut requests = Requests::listen()?;
        let front = Front::bind(&config.scheduler.dashboard_address).await?;
        options.dashboard = front.as_ref().map(place_of);
        let mut scheduler = tokio::select! {
            started = Scheduler::start(options) => started?,
            signal = requests.next() => return Err(ended_by(signal)),
        };
        let _dashboard = front.map(|front| {
            tracing::info!("dashboard at {}; `hpcdag status` prints what opens it", front.place());
            serve_dashboard(front, &scheduler, ConnectOptions::of(&config))
        });
        let mut ending: Option<Instant> = None;
        let mut leaving = tokio::task::JoinSet::new();
        let (file, cluster) = (scheduler.file.clone(), scheduler.cluster.clone());
        let following = jobs::lasting::follow(&file, &cluster);
        tokio::pin!(following);
        loop {
            tokio::select! {
                never = &mut following => match never {},
                ended = scheduler.wait() => return ended.map(|()| 0),
                Some(_) = leaving.join_next() => scheduler.stop(),
                signal = requests.next() => match ending {
                    Some(since) if grace.is_some() && since.elapsed() < SAME_REQUEST => {}
                    None => {
                        tracing::info!("{signal}: ending the cluster; once more ends at once");
                        ending = Some(Instant::now());
                        match &grace {
                            None => scheduler.stop(),
                            Some(grace) => drop(leaving.spawn(part(scheduler.file.clone(), grace.clone()))),
                        }
                    }
                    Some(_) => return Err(ended_by(signal)),
                },
            }
        }
    })
}

/// Lets the workers of a job that is being ended write what would be lost with them.
async fn part(file: PathBuf, config: Arc<Config>) {
    let connected = match scheduler_file::read(&file) {
        Ok(file) => Client::connect(file, ConnectOptions::of(&config)).await,
        Err(error) => Err(error.into()),
    };
    match connected {
        Ok(client) => let_workers_go(client, config.worker.signal_grace.0).await,
        Err(error) => tracing::warn!("workers are not waited for: {}", error.message),
    }
}

fn ended_by(signal: &str) -> Error {
    Error::new(Kind::Cancelled, format!("ended by {signal}"))
}

/// `worker`: under its nanny, or as the worker itself.
///
/// # Errors
/// What keeps it from starting; for the nanny, that it crashes again and again.
pub fn worker(context: &Context, args: &WorkerArgs) -> Result<u8> {
    if args.explain_memory {
        let (mut out, found) = (Out::stdout(), worker::explain_memory(&context.loaded.config));
        if args.json.json {
            out.json(&found)?;
        } else {
            found.lines().into_iter().try_for_each(|line| out.line(line))?;
        }
        return Ok(0);
    }
    context.start_log(&Logger::Long(&args.log))?;
    let supervision = Supervision::from_env();
    if supervision.is_none() && has_nothing_to_join(context, args)? {
        return Ok(0);
    }
    let job_end = allocation::end_for_worker();
    if context.loaded.config.worker.nanny && supervision.is_none() {
        return supervise(context, job_end);
    }
    name_missing_flag();
    let wish = context.wish(&args.scheduler)?;
    // A named file need not exist yet: the worker waits for it.
    let found = match wish.named() {
        Some(found) => found,
        None => run_short(discovery::find(&wish))?,
    };
    worker::run_worker_process(worker::Options {
        config: context.config(),
        scheduler_file: found.path,
        address: args.scheduler.address.clone(),
        name: args.name.clone(),
        nthreads: None,
        natives: Registry::default(),
        executor: Some(Program::this()),
        embedded: false,
        supervision,
        job_id: state_dir::batch_job_id(),
        job_end,
    })
}

/// `executor`: runs native functions for the worker that has started this process.
///
/// # Errors
/// No worker has.
pub fn executor() -> Result<u8> {
    processes::serve(Registry::default())
}

/// Says why, if the cluster that this worker's job was submitted for has ended.
fn has_nothing_to_join(context: &Context, args: &WorkerArgs) -> Result<bool> {
    let wish = context.wish(&args.scheduler)?;
    let (Some(cluster), Some(found)) = (&args.join, wish.named()) else { return Ok(false) };
    let why = jobs::join::why_not(&found.path, cluster, wish.address.as_ref())?;
    if let Some(why) = &why {
        output::say(&format!("cluster {cluster} has ended: {why}"));
    }
    Ok(why.is_some())
}

/// Says so if Slurm gave this worker fewer processors than it was meant to have.
fn name_missing_flag() {
    let Some(share) = Share::of(&environment::of_process) else { return };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let own = std::thread::available_parallelism().map_or(u32::MAX, |n| count(n.get()));
    if let Some(complaint) = share.complaint(own, process::online_processors()) {
        tracing::warn!("{complaint}");
    }
}

/// Runs this same command line again as the worker, and stays as its nanny. On the main thread, before any
/// other exists.
fn supervise(context: &Context, job_end: Option<SystemTime>) -> Result<u8> {
    let config = &context.loaded.config;
    let mut args: Vec<_> = std::env::args_os().skip(1).collect();
    args.push("--no-nanny".into());
    let host = hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    let job = state_dir::batch_job_id();
    let mut options = NannyOptions::new("/proc/self/exe", args);
    options.env.extend(allocation::end_variable(job_end));
    if job.is_some() {
        options.same_request = SAME_REQUEST;
    }
    options.name = Some("hpcdag".into());
    options.local_directory = Some(worker::directory::local_directory(config, job.as_deref(), &host)?);
    options.restarts.pause_first = config.worker.restart_backoff.initial;
    options.restarts.pause_max = config.worker.restart_backoff.max;
    process::forbid_core_files()?;
    nanny::run(&options)
}

/// Says something that a person at a terminal wants to know and a script does not.
pub(super) fn tell(context: &Context, text: &str) {
    if context.verbosity.quiet == 0 {
        output::say(text);
    }
}
