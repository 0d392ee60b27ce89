//! `up`, `down` and `workers start`: clusters of processes that go on in the background. Owns the order of
//! their parts and that nothing is left of a cluster that did not come up.

pub(in crate::cli) mod queued;
pub(in crate::cli) mod scheduler_job;

use super::allocation;
use super::args::{
    DownArgs, JobOptions, ListenOptions, PlacementOptions, SchedulerOptions, SchedulerPlace, UpArgs,
    UpCommandArgs, WorkerOptions, WorkersStartArgs,
};
use super::background::{Local, SchedulerOrder, StartedScheduler, start_scheduler, worker_args};
use super::context::{Context, Role, absolute, run_short};
use super::gather::{self, Gathered, Source};
use super::hosts;
use super::jobs;
use super::output::{self, Out};
use super::processes::{self, Record};
use super::serve::tell;
use super::signals;
use super::steer::stop_cluster;
use crate::base::error::{Error, Kind, Result};
use crate::base::units::Span;
use crate::client::Client;
use crate::cluster::share_of_processors;
use crate::launch::hosts::Hosts;
use crate::launch::slurm::environment::Allocation;
use crate::launch::slurm::srun;
use crate::launch::{Launched, Launcher, Order};
use crate::net::discovery;
use crate::net::scheduler_file::{self, SchedulerFile};
use crate::net::state_dir::{ClusterDir, StateDir};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long background processes may take to end by themselves once their scheduler is gone.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// A cluster that is up.
pub(super) struct Cluster {
    /// Its scheduler.
    pub scheduler: StartedScheduler,
    /// Its directory.
    pub home: ClusterDir,
    /// How many workers are connected.
    pub workers: u32,
}

/// `up`
pub fn up(context: &Context, command: &UpCommandArgs) -> Result<u8> {
    signals::note_requests()?;
    up_or_nothing(context, command).map_err(|error| match signals::asked() {
        // What it interrupted may have failed for that reason in many ways.
        Some(signal) => {
            tracing::debug!("{}", error.message);
            Error { hint: error.hint, ..Error::new(Kind::Cancelled, format!("{signal}: given up")) }
        }
        None => error,
    })
}

fn up_or_nothing(context: &Context, command: &UpCommandArgs) -> Result<u8> {
    if let Some(code) = queued::up(context, command)? {
        return Ok(code);
    }
    if command.no_wait {
        return Err(Error::new(Kind::Usage, "--no-wait is for workers in jobs")
            .hint("-N 16 --walltime 2h asks for some on a login node"));
    }
    let args = &command.up;
    let mut allocation = allocation::detect(&args.placement)?;
    limit_nodes(&mut allocation, &command.jobs)?;
    let cluster = bring_up_in(context, args, allocation, command.scheduler_place)?;
    let Cluster { scheduler, home, workers } = cluster;
    let json = json!({
        "id": scheduler.file.id,
        "address": scheduler.file.address,
        "scheduler-file": scheduler.path,
        "workers": workers,
        "log": home.log(),
    });
    let workers = workers_word(workers);
    Out::stdout().value(args.json.json, &json, |_| {
        format!("cluster {} is up with {workers}: {}", scheduler.file.id, scheduler.path.display())
    })?;
    Ok(0)
}

/// Starts a cluster. Nothing is left of one that does not come up.
///
/// # Errors
/// What keeps it from coming up.
pub(super) fn bring_up(context: &Context, args: &UpArgs) -> Result<Cluster> {
    bring_up_in(context, args, allocation::detect(&args.placement)?, SchedulerPlace::Auto)
}

/// What `up` asks of a scheduler.
fn scheduler_order(args: &UpArgs) -> Result<SchedulerOrder> {
    let mut order = SchedulerOrder {
        file: args.scheduler_file.as_deref().map(absolute).transpose()?,
        args: Vec::new(),
        log: None,
    };
    if let Some(interface) = &args.interface {
        order.args = vec!["--interface".into(), interface.into()];
    }
    if let Some(address) = &args.dashboard_address {
        order.args.extend(["--dashboard-address".into(), address.into()]);
    }
    Ok(order)
}

/// Starts the scheduler of `up` on this host.
fn start_here(context: &Context, args: &UpArgs) -> Result<StartedScheduler> {
    context.tell_threads(Role::Scheduler);
    start_scheduler(&scheduler_order(args)?, args.timeout.0)
}

/// Says so if this host ends processes that compute for long.
fn tell_cpu_limit(context: &Context) {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_CPU) else { return };
    if soft != RLIM_INFINITY {
        let limit = Span(Duration::from_secs(soft));
        let what = format!(
            "processes may use {limit} of processor time on this host (RLIMIT_CPU), and the scheduler would \
             end with that; `hpcdag up --batch` gives it a job of its own"
        );
        tell(context, &what);
    }
}

/// Keeps to so many nodes of an allocation as were asked for.
fn limit_nodes(allocation: &mut Option<Allocation>, jobs: &JobOptions) -> Result<()> {
    let other = JobOptions { nodes: None, ..jobs.clone() };
    match (allocation, jobs.nodes) {
        (Some(_), _) if other.given().is_some() => {
            let what = format!("{} is for workers in jobs of their own", other.given().unwrap_or_default());
            Err(Error::new(Kind::Usage, what)
                .hint("this is inside a job, whose nodes are taken; --launcher sbatch submits another one"))
        }
        (Some(found), Some(nodes)) if found.nodes.len() < nodes as usize => {
            let what = format!("job {} has {} nodes, not {nodes}", found.job_id, found.nodes.len());
            Err(Error::new(Kind::Usage, what).hint("-n asks for so many workers on the nodes that there are"))
        }
        (Some(found), Some(nodes)) => {
            found.nodes.truncate(nodes as usize);
            Ok(())
        }
        (Some(_), None) => Ok(()),
        (None, _) => match jobs.given() {
            None => Ok(()),
            Some(option) => {
                Err(Error::new(Kind::Usage, format!("{option} is for workers in jobs of a batch system"))
                    .hint("add --launcher sbatch, qsub or sge"))
            }
        },
    }
}

/// The same with the allocation that was found, if one was.
fn bring_up_in(
    context: &Context,
    args: &UpArgs,
    allocation: Option<Allocation>,
    place: SchedulerPlace,
) -> Result<Cluster> {
    let deadline = Instant::now() + args.timeout.0;
    let hosts = hosts::detect(context, &args.placement)?;
    // In an allocation it is a step too: the shell of `salloc` may be on the submitting host, which need not
    // be reached from the nodes and may not be there to be worked on.
    let (scheduler, node) = match (&allocation, place) {
        (Some(found), SchedulerPlace::Auto | SchedulerPlace::FirstNode) => {
            let order = scheduler_order(args)?;
            let (scheduler, node) = allocation::start_scheduler(&order, found, args.timeout.0)?;
            (scheduler, Some(node))
        }
        (None, SchedulerPlace::FirstNode) => {
            return Err(Error::new(Kind::Usage, "there is no first node: this is not inside a Slurm job")
                .hint("get nodes with salloc -N 4; `up --batch` gives the scheduler a job of its own"));
        }
        (found, SchedulerPlace::Auto | SchedulerPlace::Here) => {
            tell_cpu_limit(context);
            (start_here(context, args)?, found.as_ref().and_then(|found| found.node.clone()))
        }
    };
    let home = StateDir::of_user()?.cluster(&scheduler.file.id)?;
    let listen = ListenOptions { interface: args.interface.clone(), ..ListenOptions::default() };
    let started = Workers {
        placement: &args.placement,
        allocation: allocation.as_ref(),
        hosts: hosts.as_ref(),
        scheduler_file: &scheduler.path,
        scheduler_host: &scheduler.file.host,
        scheduler_on: node.as_deref(),
        address: None,
        worker: &args.worker,
        listen: &listen,
    }
    .start(context, &home, deadline);
    match started {
        Ok((_, gathered)) => Ok(Cluster { scheduler, home, workers: gathered.connected }),
        Err(error) => {
            undo(context, &scheduler.path, &home);
            Err(Error { hint: Some("nothing of the cluster was left running".into()), ..error })
        }
    }
}

/// Ends a cluster and everything that was started for it.
///
/// # Errors
/// `Timeout` when its scheduler does not end; its processes are ended all the same.
pub(super) fn take_down(context: &Context, cluster: &Cluster) -> Result<()> {
    let path = Some(cluster.scheduler.path.clone());
    let stopped = stop_cluster(context, &SchedulerOptions { scheduler_file: path, address: None });
    let patience = if stopped.is_ok() { END_PATIENCE } else { Duration::from_secs(1) };
    let killed = clear(&cluster.home, patience);
    if killed > 0 {
        tell(context, &format!("{killed} processes did not end by themselves and were killed"));
    }
    stopped.map(drop)
}

fn workers_word(count: u32) -> String {
    if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

/// Ends what there is of a cluster that did not come up.
fn undo(context: &Context, scheduler_file: &Path, home: &ClusterDir) {
    let options = SchedulerOptions { scheduler_file: Some(scheduler_file.to_owned()), address: None };
    // A job may not have begun: then there is nobody to tell.
    if scheduler_file.exists()
        && let Err(error) = stop_cluster(context, &options)
    {
        tracing::warn!("{}", error.message);
    }
    clear(home, Duration::from_secs(1));
}

/// Waits for the processes of a cluster that has ended, as long as `patience` says before they are asked to
/// leave, and removes its directory. How many had to be killed.
pub(super) fn clear(home: &ClusterDir, patience: Duration) -> usize {
    let killed = processes::end(&processes::noted(home.path()), patience);
    processes::forget(home.path());
    if let Err(error) = jobs::stop::clear(home.path()) {
        output::say(&format!("warning: {error}"));
    }
    if let Err(error) = home.remove() {
        tracing::warn!("{}", error.message);
    }
    killed
}

/// Workers to start.
struct Workers<'a> {
    placement: &'a PlacementOptions,
    /// The allocation whose nodes they go to; this machine without one.
    allocation: Option<&'a Allocation>,
    /// The hosts that they go to, one by one.
    hosts: Option<&'a Hosts>,
    scheduler_file: &'a Path,
    scheduler_host: &'a str,
    /// The allocation's node that the scheduler is on.
    scheduler_on: Option<&'a str>,
    address: Option<&'a str>,
    worker: &'a WorkerOptions,
    listen: &'a ListenOptions,
}

impl Workers<'_> {
    /// Starts them and waits until they have registered.
    fn start(
        &self,
        context: &Context,
        home: &ClusterDir,
        deadline: Instant,
    ) -> Result<(Vec<Source>, Gathered)> {
        let options = SchedulerOptions {
            scheduler_file: Some(self.scheduler_file.to_owned()),
            address: self.address.map(str::to_owned),
        };
        let before = run_short(async {
            let client = context.client(&options).await?;
            let before = gather::connected(&client).await?;
            client.close().await;
            Ok(before)
        })?;
        home.create()?;
        let (sources, result) = match (self.hosts, self.allocation) {
            (Some(hosts), _) => self.start_on_hosts(context, hosts, home)?,
            (None, Some(allocation)) => self.start_on_nodes(context, allocation, home)?,
            (None, None) => self.start_here(context, home)?,
        };
        result?;
        let expected: u32 = sources.iter().map(Source::workers).sum();
        let on = on_where(self.allocation, self.hosts).unwrap_or_default();
        tell(context, &format!("waiting for {}{on}", workers_word(expected)));
        let min = self.placement.min_workers.unwrap_or(expected);
        let gathered = run_short(async {
            let client = context.client(&options).await?;
            let gathered = gather::gather(&client, &sources, &before, min, deadline).await?;
            client.close().await;
            Ok(gathered)
        })?;
        if !gathered.missing.is_empty() {
            let (n, missing) = (gathered.connected, &gathered.missing);
            output::say(&format!("{n} of {expected} workers are connected; missing:\n{missing}"));
        }
        Ok((sources, gathered))
    }

    fn args(&self, context: &Context, worker: &WorkerOptions) -> Result<Vec<OsString>> {
        worker_args(self.scheduler_file, self.address, worker, self.listen, context.verbosity)
    }

    fn start_here(&self, context: &Context, home: &ClusterDir) -> Result<(Vec<Source>, Result<()>)> {
        let count = self.placement.nworkers.unwrap_or(1);
        let mut worker = self.worker.clone();
        if worker.nthreads.is_none() {
            let share = share_of_processors(&context.loaded.config, count);
            worker.nthreads = share.map(|n| n.to_string());
        }
        let args = self.args(context, &worker)?;
        let order = Order { nworkers: count, args, logs: home.path().to_owned() };
        let (launched, result) = Local.start(&order);
        let source = |l: Launched| Some(Source::Process { pid: l.id.parse().ok()?, log: l.log });
        Ok((launched.into_iter().filter_map(source).collect(), result))
    }

    fn start_on_hosts(
        &self,
        context: &Context,
        hosts: &Hosts,
        home: &ClusterDir,
    ) -> Result<(Vec<Source>, Result<()>)> {
        let order = hosts::Order {
            hosts,
            count: self.placement.nworkers,
            args: self.args(context, self.worker)?,
            is_set: (self.worker.nthreads.is_some(), self.worker.memory_limit.is_some()),
            scheduler_host: self.scheduler_host,
            home,
        };
        order.start(context)
    }

    fn start_on_nodes(
        &self,
        context: &Context,
        allocation: &Allocation,
        home: &ClusterDir,
    ) -> Result<(Vec<Source>, Result<()>)> {
        let spread = allocation::spread(self.placement, allocation)?;
        let steps = srun::plan(allocation, spread, self.scheduler_on)?;
        let args = self.args(context, self.worker)?;
        Ok(allocation::start_workers(&context.loaded.config, allocation, steps, &args, home))
    }
}

/// `workers start`
pub fn workers_start(context: &Context, args: &WorkersStartArgs) -> Result<u8> {
    let deadline = Instant::now() + args.start_timeout.0;
    let in_pool = jobs::pools::apply(context, args)?;
    let args = in_pool.as_ref().unwrap_or(args);
    if let Some(system) = queued::system(args.placement.launcher, &args.jobs)? {
        return jobs::start::start(context, args, system);
    }
    let hosts = hosts::detect(context, &args.placement)?;
    let mut found = allocation::detect(&args.placement)?;
    limit_nodes(&mut found, &args.jobs)?;
    let wish = context.wish(&args.scheduler)?;
    let (path, file) = run_short(async {
        let path = absolute(&discovery::find(&wish).await?.path)?;
        let client = Client::open(&path, &wish, &context.loaded.config).await?;
        let file = client.scheduler().clone();
        client.close().await;
        Ok((path, file))
    })?;
    let home = StateDir::of_user()?.cluster(&file.id)?;
    let node = found.as_ref().and_then(|found| allocation::node_of_scheduler(found, &file, &home));
    let workers = Workers {
        placement: &args.placement,
        allocation: found.as_ref(),
        hosts: hosts.as_ref(),
        scheduler_file: &path,
        scheduler_host: &file.host,
        scheduler_on: node.as_deref(),
        address: args.scheduler.address.as_deref(),
        worker: &args.worker,
        listen: &args.listen,
    };
    let (sources, gathered) = workers.start(context, &home, deadline)?;
    let json: Vec<Value> = sources.iter().map(source_json).collect();
    let on = on_where(found.as_ref(), hosts.as_ref());
    Out::stdout().value(args.json.json, &json, |_| match &on {
        Some(on) => format!("{} connected{on}", workers_word(gathered.connected)),
        None => sources.iter().map(source_text).collect(),
    })?;
    Ok(0)
}

/// Where workers are that are not simply here.
fn on_where(allocation: Option<&Allocation>, hosts: Option<&Hosts>) -> Option<String> {
    let job = match (hosts, allocation) {
        (Some(Hosts { job: Some((_, id)), .. }), _) => id,
        (Some(hosts), _) if hosts.hosts.len() == 1 => return Some(" on 1 host".into()),
        (Some(hosts), _) => return Some(format!(" on {} hosts", hosts.hosts.len())),
        (None, Some(allocation)) => &allocation.job_id,
        (None, None) => return None,
    };
    Some(format!(" on nodes of job {job}"))
}

fn source_text(source: &Source) -> String {
    let (pid, log) = source.process();
    format!("started worker process {pid}, log {}\n", log.display())
}

fn source_json(source: &Source) -> Value {
    let (pid, log) = source.process();
    let mut json = json!({ "pid": pid.to_string(), "log": log });
    if let Source::Host { host, name, .. } = source {
        json["host"] = json!(host);
        json["worker"] = json!(name);
    }
    if let Source::Srun { step, name, .. } = source {
        json["step"] = json!(name);
        json["nodes"] = json!(step.nodes);
        json["workers"] = json!(step.tasks());
    }
    json
}

/// `down`
pub fn down(context: &Context, args: &DownArgs) -> Result<u8> {
    let state = StateDir::of_user()?;
    let (id, path, killed) = match stop_cluster(context, &args.scheduler) {
        Ok(stopped) => {
            let killed = clear(&state.cluster(&stopped.file.id)?, END_PATIENCE);
            (stopped.file.id, stopped.path, killed)
        }
        Err(e) if e.kind == Kind::NoScheduler => match clear_dead(context, args, &state)? {
            Some((id, path, killed)) => (id, path, killed),
            None => match clear_waiting(context, args, &state)? {
                Some((id, path)) => (id, path, 0),
                None => return Err(e),
            },
        },
        Err(e) => return Err(e),
    };
    if killed > 0 {
        tell(context, &format!("{killed} processes did not end by themselves and were killed"));
    }
    let json = json!({ "down": id, "scheduler-file": path, "killed": killed });
    Out::stdout().value(args.json.json, &json, |_| format!("cluster {id} is down"))?;
    Ok(0)
}

/// What is left of a cluster whose scheduler has died on this host: its file, its processes, its directory.
fn clear_dead(
    context: &Context,
    args: &DownArgs,
    state: &StateDir,
) -> Result<Option<(String, PathBuf, usize)>> {
    let wish = context.wish(&args.scheduler)?;
    let dead = |file: &SchedulerFile| {
        let here = hostname::get().is_ok_and(|h| h.to_string_lossy() == file.host.as_str());
        if here && Record::of(file.pid, Path::new("")).is_none() {
            return true;
        }
        // One that ran as a step ends with its `srun`.
        let Ok(home) = state.cluster(&file.id) else { return false };
        if scheduler_job::is_over(home.path()) {
            return true;
        }
        let noted = processes::noted(home.path());
        let step = noted.iter().find(|r| r.step.as_ref().is_some_and(|s| s.scheduler_on.is_some()));
        step.is_some_and(|record| record.is_of_this_host() && !record.is_running())
    };
    let (path, file) = match wish.named() {
        Some(found) => match scheduler_file::read(&found.path) {
            Ok(file) if dead(&file) => (found.path, file),
            _ => return Ok(None),
        },
        None => {
            let listed = state.clusters()?.into_iter().filter_map(|l| Some((l.path, l.file.ok()?)));
            let mut gone: Vec<_> = listed.filter(|(_, file)| dead(file)).collect();
            match (gone.pop(), gone.is_empty()) {
                (Some(one), true) => one,
                _ => return Ok(None),
            }
        }
    };
    scheduler_file::remove(&path, &file)?;
    let killed = clear(&state.cluster(&file.id)?, Duration::ZERO);
    Ok(Some((file.id, path, killed)))
}

/// What there is of a cluster whose scheduler is a job that has not begun, or has ended.
fn clear_waiting(context: &Context, args: &DownArgs, state: &StateDir) -> Result<Option<(String, PathBuf)>> {
    let named = context.wish(&args.scheduler)?.named();
    let named = named.map(|found| absolute(&found.path)).transpose()?;
    let Some((id, path, home)) = scheduler_job::meant(state, named.as_deref())? else { return Ok(None) };
    clear(&home, Duration::ZERO);
    Ok(Some((id, path)))
}
