//! `up`, `down`, `clusters` and `workers start`: clusters of background processes on this machine. Owns the
//! order of their parts and that nothing is left of a cluster that did not come up.

use super::args::{
    ClustersArgs, DownArgs, ListenOptions, SchedulerOptions, UpArgs, WorkerOptions, WorkersStartArgs,
};
use super::background::{Local, SchedulerOrder, StartedScheduler, start_scheduler, worker_args};
use super::context::{Context, absolute, run_short};
use super::detach::last_lines;
use super::output::{Align, Out, Table};
use super::processes::{self, Record};
use super::serve::tell;
use super::steer::stop_cluster;
use crate::base::error::{Error, Kind, Result};
use crate::client::Client;
use crate::cluster::share_of_processors;
use crate::launch::{Launched, Launcher, Order};
use crate::net::discovery;
use crate::net::scheduler_file::{self, Liveness, SchedulerFile};
use crate::net::state_dir::{ClusterDir, Listed, StateDir};
use crate::protocol::messages::client::Question;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often it is looked whether workers that are waited for are still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long background processes may take to end by themselves once their scheduler is gone.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// `up`
pub fn up(context: &Context, args: &UpArgs) -> Result<u8> {
    let deadline = Instant::now() + args.timeout.0;
    let mut order = SchedulerOrder {
        file: args.scheduler_file.as_deref().map(absolute).transpose()?,
        args: Vec::new(),
        log: None,
    };
    if let Some(interface) = &args.interface {
        order.args = vec!["--interface".into(), interface.into()];
    }
    let scheduler = start_scheduler(&order, args.timeout.0)?;
    let home = StateDir::of_user()?.cluster(&scheduler.file.id)?;
    let listen = ListenOptions { interface: args.interface.clone(), ..ListenOptions::default() };
    let started = Workers {
        count: args.nworkers,
        expected: args.nworkers,
        scheduler_file: &scheduler.path,
        address: None,
        worker: &args.worker,
        listen: &listen,
    }
    .start(context, &home, deadline);
    if let Err(error) = started {
        undo(context, &scheduler, &home);
        return Err(Error { hint: Some("nothing of the cluster was left running".into()), ..error });
    }
    let json = json!({
        "id": scheduler.file.id,
        "address": scheduler.file.address,
        "scheduler-file": scheduler.path,
        "workers": args.nworkers,
        "log": home.log(),
    });
    let workers = workers_word(args.nworkers);
    Out::stdout().value(args.json.json, &json, |_| {
        format!("cluster {} is up with {workers}: {}", scheduler.file.id, scheduler.path.display())
    })?;
    Ok(0)
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
fn clear(home: &ClusterDir, patience: Duration) -> usize {
    let killed = processes::end(&processes::noted(home.path()), patience);
    processes::forget(home.path());
    if let Err(error) = home.remove() {
        tracing::warn!("{}", error.message);
    }
    killed
}

/// Workers to start on this machine.
struct Workers<'a> {
    count: u32,
    /// How many the cluster has then.
    expected: u32,
    scheduler_file: &'a Path,
    address: Option<&'a str>,
    worker: &'a WorkerOptions,
    listen: &'a ListenOptions,
}

impl Workers<'_> {
    /// Starts them and waits until they have registered.
    fn start(&self, context: &Context, home: &ClusterDir, deadline: Instant) -> Result<Vec<Launched>> {
        let mut worker = self.worker.clone();
        if worker.nthreads.is_none() {
            let share = share_of_processors(&context.loaded.config, self.count);
            worker.nthreads = share.map(|n| n.to_string());
        }
        let args = worker_args(self.scheduler_file, self.address, &worker, self.listen, context.verbosity)?;
        home.create()?;
        let order = Order { nworkers: self.count, args, logs: home.path().to_owned() };
        let (launched, result) = Local.start(&order);
        result?;
        tell(context, &format!("waiting for {}", workers_word(self.count)));
        run_short(self.wait(context, &launched, deadline))?;
        Ok(launched)
    }

    /// Waits until the cluster has as many workers as it should, or one of these has ended.
    async fn wait(&self, context: &Context, launched: &[Launched], deadline: Instant) -> Result<()> {
        let options = SchedulerOptions {
            scheduler_file: Some(self.scheduler_file.to_owned()),
            address: self.address.map(str::to_owned),
        };
        let records: Vec<(u32, &Launched)> =
            launched.iter().filter_map(|l| Some((l.id.parse().ok()?, l))).collect();
        let client = context.client(&options).await?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout_ms = u64::try_from(left.min(LOOK_INTERVAL).as_millis()).unwrap_or(1).max(1);
            let waited = client.ask(Question::WaitWorkers { workers: self.expected, timeout_ms }).await;
            let error = match waited {
                Ok(_) => {
                    client.close().await;
                    return Ok(());
                }
                Err(e) if e.kind == Kind::Timeout => e,
                Err(e) => return Err(e),
            };
            let dead = records.iter().find(|(pid, l)| Record::of(*pid, &l.log).is_none());
            if let Some((_, dead)) = dead {
                let what = format!("a worker ended before it was ready{}", logged(&dead.log));
                return Err(Error::new(Kind::Launch, what));
            }
            if left.is_zero() {
                let said = launched.first().map_or_else(String::new, |l| logged(&l.log));
                return Err(Error { message: format!("{}{said}", error.message), ..error });
            }
        }
    }
}

/// What a worker logged last, as the end of a message.
fn logged(log: &Path) -> String {
    match last_lines(log, 0) {
        Ok(lines) if !lines.is_empty() => format!("; it logged:\n{lines}"),
        _ => "; it logged nothing".into(),
    }
}

/// `workers start`
pub fn workers_start(context: &Context, args: &WorkersStartArgs) -> Result<u8> {
    let deadline = Instant::now() + Duration::from_secs(300);
    let wish = context.wish(&args.scheduler)?;
    let (path, file, there) = run_short(async {
        let path = absolute(&discovery::find(&wish).await?.path)?;
        let client = Client::open(&path, &wish, &context.loaded.config).await?;
        let status = client.ask(Question::Status).await?;
        let there = status["workers"].as_array().map_or(0, Vec::len);
        let file = client.scheduler().clone();
        client.close().await;
        Ok((path, file, u32::try_from(there).unwrap_or(u32::MAX)))
    })?;
    let home = StateDir::of_user()?.cluster(&file.id)?;
    let workers = Workers {
        count: args.nworkers,
        expected: there.saturating_add(args.nworkers),
        scheduler_file: &path,
        address: args.scheduler.address.as_deref(),
        worker: &args.worker,
        listen: &args.listen,
    };
    let launched = workers.start(context, &home, deadline)?;
    let json: Vec<Value> = launched.iter().map(|l| json!({ "pid": l.id, "log": l.log })).collect();
    Out::stdout().value(args.json.json, &json, |_| {
        launched
            .iter()
            .map(|l| format!("started worker process {}, log {}\n", l.id, l.log.display()))
            .collect()
    })?;
    Ok(0)
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
        here && Record::of(file.pid, Path::new("")).is_none()
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
