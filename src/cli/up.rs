//! `up`, `down`, `clusters` and `workers start`: clusters of processes that go on in the background. Owns the
//! order of their parts and that nothing is left of a cluster that did not come up.

use super::allocation;
use super::args::{
    ClustersArgs, DownArgs, ListenOptions, PlacementOptions, SchedulerOptions, UpArgs, WorkerOptions,
    WorkersStartArgs,
};
use super::background::{Local, SchedulerOrder, StartedScheduler, start_scheduler, worker_args};
use super::context::{Context, absolute, run_short};
use super::gather::{self, Gathered, Source};
use super::hosts;
use super::jobs;
use super::output::{self, Align, Out, Table};
use super::processes::{self, Record};
use super::serve::tell;
use super::steer::stop_cluster;
use crate::base::error::{Error, Kind, Result};
use crate::client::Client;
use crate::cluster::share_of_processors;
use crate::launch::hosts::Hosts;
use crate::launch::slurm::environment::Allocation;
use crate::launch::slurm::srun;
use crate::launch::{Launched, Launcher, Order};
use crate::net::discovery;
use crate::net::scheduler_file::{self, Liveness, SchedulerFile};
use crate::net::state_dir::{ClusterDir, Listed, StateDir};
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
pub fn up(context: &Context, args: &UpArgs) -> Result<u8> {
    let Cluster { scheduler, home, workers } = bring_up(context, args)?;
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
    let deadline = Instant::now() + args.timeout.0;
    let hosts = hosts::detect(context, &args.placement)?;
    let allocation = allocation::detect(&args.placement)?;
    let mut order = SchedulerOrder {
        file: args.scheduler_file.as_deref().map(absolute).transpose()?,
        args: Vec::new(),
        log: None,
    };
    if let Some(interface) = &args.interface {
        order.args = vec!["--interface".into(), interface.into()];
    }
    // In an allocation it is a step too: the shell of `salloc` may be on the submitting host, which need not
    // be reached from the nodes and may not be there to be worked on.
    let (scheduler, node) = match &allocation {
        Some(found) => {
            let (scheduler, node) = allocation::start_scheduler(&order, found, args.timeout.0)?;
            (scheduler, Some(node))
        }
        None => (start_scheduler(&order, args.timeout.0)?, None),
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
            undo(context, &scheduler, &home);
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
fn undo(context: &Context, scheduler: &StartedScheduler, home: &ClusterDir) {
    let options = SchedulerOptions { scheduler_file: Some(scheduler.path.clone()), address: None };
    if let Err(error) = stop_cluster(context, &options) {
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
    let system = args.placement.launcher.map(jobs::system_of).transpose()?.flatten();
    if let Some(system) = system {
        return jobs::start::start(context, args, system);
    }
    if let Some(option) = args.jobs.given() {
        return Err(Error::new(Kind::Usage, format!("{option} is for workers in jobs of a batch system"))
            .hint("add --launcher sbatch, qsub or sge"));
    }
    let hosts = hosts::detect(context, &args.placement)?;
    let found = allocation::detect(&args.placement)?;
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
            None => return Err(e),
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
        let noted = state.cluster(&file.id).map(|home| processes::noted(home.path())).unwrap_or_default();
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

/// `clusters`
pub fn clusters(_: &Context, args: &ClustersArgs) -> Result<u8> {
    let listed = StateDir::of_user()?.clusters()?;
    let states = run_short(async {
        let mut probes = tokio::task::JoinSet::new();
        for (at, l) in listed.iter().enumerate() {
            let file = l.file.clone().ok();
            probes.spawn(async move { (at, probe(file).await) });
        }
        let mut states = vec![("unreadable", String::new()); listed.len()];
        while let Some(probed) = probes.join_next().await {
            let (at, state) = probed.map_err(|e| Error::os("cannot look for clusters", e))?;
            states[at] = state;
        }
        Ok(states)
    })?;
    let mut out = Out::stdout();
    if args.json.json {
        let all: Vec<Value> = listed.iter().zip(&states).map(|(l, s)| cluster_json(l, s)).collect();
        out.json(&all)?;
        return Ok(0);
    }
    if listed.is_empty() {
        out.line("you have no cluster")?;
        return Ok(0);
    }
    let mut table = Table::new([
        ("cluster", Align::Left),
        ("state", Align::Left),
        ("host", Align::Left),
        ("since", Align::Left),
        ("job", Align::Left),
        ("scheduler file", Align::Left),
    ]);
    for (l, (state, _)) in listed.iter().zip(&states) {
        let file = l.file.as_ref().ok();
        let text = |of: &dyn Fn(&SchedulerFile) -> Option<String>| file.and_then(of).unwrap_or("-".into());
        table.row([
            l.id.clone(),
            (*state).to_owned(),
            text(&|f| Some(f.host.clone())),
            text(&|f| Some(f.started.clone())),
            text(&|f| f.job_id.clone()),
            l.path.display().to_string(),
        ]);
    }
    out.table(&table)?;
    Ok(0)
}

async fn probe(file: Option<SchedulerFile>) -> (&'static str, String) {
    let Some(file) = file else { return ("unreadable", String::new()) };
    match scheduler_file::probe(&file).await {
        Liveness::Alive => ("alive", String::new()),
        Liveness::NobodyAnswers(why) | Liveness::OtherAnswers(why) => ("stale", why),
    }
}

fn cluster_json(listed: &Listed, (state, why): &(&str, String)) -> Value {
    let mut json = json!({ "id": listed.id, "state": state, "scheduler-file": listed.path });
    match &listed.file {
        Ok(file) => {
            json["host"] = json!(file.host);
            json["pid"] = json!(file.pid);
            json["address"] = json!(file.address);
            json["started"] = json!(file.started);
            json["job-id"] = json!(file.job_id);
        }
        Err(e) => json["why"] = json!(e.to_string()),
    }
    if !why.is_empty() {
        json["why"] = json!(why);
    }
    json
}
