//! A worker from its start to its end: sets up pool, store and listener, registers, and registers anew when
//! the scheduler was lost. Owns what outlives a registration; the time of one is the driver's.

use super::answers::Answers;
use super::directory::{Directory, local_directory};
use super::driver::{Driver, End, LIFETIME_OVER, Terms};
use super::executor::cgroup::Groups;
use super::executor::command::CommandExecutor;
use super::executor::native::{NativeExecutor, Registry};
use super::executor::pool::Pool;
use super::executor::processes::{IsolatedNatives, Program, idle_bytes};
use super::executor::variables::Shared;
use super::finish::{Finisher, Job};
use super::last_words;
use super::limits;
use super::memory::enforcement::Enforcement;
use super::memory::monitor::Gauge;
use super::memory::spiller::Spiller;
use super::memory::{self, Memory, Parts};
use super::prepare::environment::{WorkerFacts, own_umask, task_environment};
use super::prepare::{Enforce, Runner};
use super::printed::Book;
use super::profile::Profiler;
use super::python::{self, Python};
use super::scheduler_link::{Answer, Link, Whereabouts, register};
use super::store::Store;
use super::store::spill::{self, RealDisk, Spill};
use super::strays::kill_strays;
use super::supervision::{Predecessor, Supervision, is_internal_variable};
use super::transfer::Traffic;
use super::transfer::brought::Brought;
use super::transfer::client::Client;
use super::transfer::server::{Served, Server};
use super::work::Work;
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::Incarnation;
use crate::config::{Config, Nthreads, Worker as Settings};
use crate::graph::layer::SLOT;
use crate::net::address::{Address, Bound, ListenOptions, PortRange, bind};
use crate::net::backoff::Backoff;
use crate::net::fetch::Patience;
use crate::net::scheduler_file::SchedulerFile;
use crate::net::tls::ServerTls;
use crate::protocol::PROTOCOL;
use crate::protocol::credentials::Role;
use crate::protocol::messages::worker::Register;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// Results that clients have brought and that wait to be looked at.
const BROUGHT_MAX: usize = 16;

/// What a worker is started with.
pub struct Options {
    /// The configuration.
    pub config: Arc<Config>,
    /// The scheduler file; it may not exist yet.
    pub scheduler_file: PathBuf,
    /// The scheduler's address, if not the file's.
    pub address: Option<String>,
    /// The worker's name; made up if `None`.
    pub name: Option<String>,
    /// Task slots, if not as configured.
    pub nthreads: Option<u32>,
    /// The native functions that it can run.
    pub natives: Registry,
    /// What runs them where they are isolated; it must know the same ones.
    pub executor: Option<Program>,
    /// Whether it is part of a larger program: then it changes nothing that belongs to the whole process.
    pub embedded: bool,
    /// What its nanny says.
    pub supervision: Option<Supervision>,
    /// The batch job that it runs in.
    pub job_id: Option<String>,
    /// When that ends, if it does and this is known.
    pub job_end: Option<SystemTime>,
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The scheduler let it go, after it had handed everything over.
    Dismissed,
    /// It was stopped: by the scheduler, by its owner, or because retiring took too long.
    Stopped,
    /// It has left because its lifetime is over, and another one is to take its place.
    Renewed,
    /// Its scheduler was gone for longer than the death-timeout.
    SchedulerGone,
    /// The scheduler did not let it in again, for this reason.
    Refused(String),
}

/// What the owner of a worker wants of it.
#[derive(Debug)]
pub(super) enum Request {
    /// Leave in order, for a reason, within this time if not as configured.
    Retire(String, Option<Duration>),
    /// Leave now.
    Stop,
}

/// A running worker. Stops when it is dropped.
pub struct Worker {
    name: String,
    requests: mpsc::UnboundedSender<Request>,
    signalled: Arc<AtomicBool>,
    task: Option<JoinHandle<Result<Ending>>>,
    ending: Option<Result<Ending>>,
}

impl Worker {
    /// Starts a worker on the current runtime: waits for the scheduler, up to the death-timeout, and
    /// registers.
    ///
    /// # Errors
    /// No scheduler was found in time (`NoScheduler`), it did not let the worker in (`Refused`), or something
    /// here does not allow to start: no such interface, no room for the local directory, a wrong name.
    pub async fn start(options: Options) -> Result<Worker> {
        let mut life = Life::prepare(options).await?;
        let link = match life.join().await? {
            Answer::Registered(link) => link,
            Answer::Refused(reason) => {
                let text = format!("the scheduler refuses this worker: {reason}");
                return Err(Error::new(Kind::Refused, text));
            }
        };
        let (requests, asked) = mpsc::unbounded_channel();
        let (name, signalled) = (life.name.clone(), life.signalled.clone());
        let task = tokio::spawn(life.live(*link, asked));
        Ok(Worker { name, requests, signalled, task: Some(task), ending: None })
    }

    /// Asks it to leave in order: what has not started goes back, results are copied, then it ends. Returns
    /// at once; the second and later requests change nothing.
    pub fn retire(&self, reason: &str) {
        // It may have ended already.
        let _ = self.requests.send(Request::Retire(reason.to_string(), None));
    }

    /// The same after a signal, which a batch system sends to the tasks too: those that end by it have not
    /// failed but run elsewhere. `within` is how long there is; a later request may shorten it.
    pub fn retire_signalled(&self, reason: &str, within: Option<Duration>) {
        self.signalled.store(true, Ordering::Release);
        // It may have ended already.
        let _ = self.requests.send(Request::Retire(reason.to_string(), within));
    }

    /// Ends its tasks and leaves. Returns at once.
    pub fn stop(&self) {
        // It may have ended already.
        let _ = self.requests.send(Request::Stop);
    }

    /// Waits for its end. May be cancelled and called again.
    ///
    /// # Errors
    /// Something went wrong that no ending has a name for.
    pub async fn wait(&mut self) -> Result<Ending> {
        if let Some(task) = &mut self.task {
            let ended = task.await;
            self.task = None;
            let lost = |error: tokio::task::JoinError| Err(Error::os("the worker came to grief", error));
            self.ending = Some(ended.unwrap_or_else(lost));
        }
        self.ending.clone().unwrap_or(Ok(Ending::Stopped))
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What a worker is over all its registrations.
struct Life {
    config: Arc<Config>,
    whereabouts: Whereabouts,
    name: String,
    host: String,
    slots: u32,
    memory_limit: Option<u64>,
    job_id: Option<String>,
    embedded: bool,
    incarnation: Incarnation,
    predecessor: Option<Predecessor>,
    /// When its lifetime is over, and why.
    until: Option<(tokio::time::Instant, &'static str)>,
    /// Whether a signal has asked it to leave.
    signalled: Arc<AtomicBool>,
    pool: Arc<Pool<Job>>,
    python: Arc<Python>,
    store: Arc<Mutex<Store>>,
    ended: Arc<Notify>,
    memory: Parts,
    served: Arc<Served>,
    /// What clients bring.
    brought: mpsc::Receiver<Brought>,
    address: Address,
    /// The listener until the cluster is known, then what serves on it and the cluster's authority.
    listener: Option<TcpListener>,
    server: Option<(String, Server)>,
    /// Where what tasks print is kept.
    book: Option<Arc<Book>>,
    profiler: Arc<Profiler>,
    /// Removed at the end.
    directory: Directory,
}

impl Life {
    async fn prepare(options: Options) -> Result<Life> {
        let config = options.config;
        let settings = &config.worker;
        let variable = |name: &str| std::env::var(name).ok();
        let host = host_name(&variable);
        let supervision = options.supervision.as_ref();
        let incarnation = supervision.map_or_else(Incarnation::new_v4, |s| s.incarnation);
        let name = match options.name {
            Some(name) => checked_name(name)?,
            None => format!("{host}-{}", &incarnation.simple().to_string()[..8]),
        };
        let directory = match supervision.and_then(|s| s.directory.clone()) {
            Some(path) => Directory::create_at(path)?,
            None => {
                Directory::create(&local_directory(&config, options.job_id.as_deref(), &host)?, incarnation)?
            }
        };
        let count = options.nthreads.and_then(std::num::NonZeroU32::new).map(Nthreads::Count);
        let nthreads = limits::threads(count.unwrap_or(settings.nthreads), &variable);
        let address = options.address.map(|text| text.parse()).transpose()?;
        let Bound { listener, address: own, reason } = bind(&listen_options(settings)).await?;
        tracing::info!(address = %own, "worker {name} listens: {reason}");
        let ended = Arc::new(Notify::new());
        let enforce = enforce(settings, options.embedded, supervision.map(|s| s.nanny_pid));
        let limit = limits::memory(settings.memory_limit, settings.memory_reserve, nthreads, &variable);
        tracing::debug!("{}", limit.found.join("; "));
        let memory_limit = limit.bytes;
        let memory = memory_parts(settings, memory_limit, &directory)?;
        let facts = facts(settings, (&name, &host), &options.scheduler_file, &directory);
        let python = Arc::new(python(settings, &facts, enforce.is_on(), &memory, nthreads));
        let natives = Natives { registry: options.natives, program: options.executor };
        let runner = runner(settings, facts, natives, &memory, nthreads)?.enforcing(enforce);
        let store = memory.store.clone();
        let signalled = Arc::new(AtomicBool::new(false));
        // Only there are tasks sent the signals that are meant for their worker.
        let watched = options.job_id.as_ref().map(|_| signalled.clone());
        if !options.embedded {
            last_words::keep_log(directory.path());
        }
        let book = book(settings, &directory);
        let profiler = Arc::new(Profiler::new(directory.path()));
        profiler.fold_now_and_then();
        let finisher =
            Finisher::new(runner, python.clone(), memory.clone(), watched, (book.clone(), profiler.clone()));
        let (executor, notify) = (Arc::new(finisher), ended.clone());
        let pool = Pool::start(nthreads as usize, executor, move || notify.notify_one());
        let pool = Arc::new(pool.map_err(|e| Error::os("cannot start the slot threads", e))?);
        let (epoch, traffic) = (AtomicU32::new(0), Arc::new(Traffic::default()));
        let (bring, brought) = mpsc::channel(BROUGHT_MAX);
        let served = Served {
            store: store.clone(),
            epoch,
            name: name.clone(),
            traffic,
            limit: memory_limit,
            brought: bring,
        };
        let served = Arc::new(served);
        Ok(Life {
            whereabouts: Whereabouts { file: options.scheduler_file, address },
            slots: nthreads.saturating_mul(SLOT),
            memory_limit,
            until: leaves_at(settings, options.job_end),
            signalled,
            predecessor: options.supervision.and_then(|s| s.predecessor),
            job_id: options.job_id,
            embedded: options.embedded,
            listener: Some(listener),
            server: None,
            address: own,
            directory,
            config,
            name,
            host,
            incarnation,
            pool,
            python,
            store,
            ended,
            memory,
            served,
            brought,
            book,
            profiler,
        })
    }

    /// Finds the scheduler and registers, for as long as the death-timeout allows.
    async fn join(&mut self) -> Result<Answer> {
        let patience = self.config.worker.death_timeout.0;
        let deadline = Instant::now() + patience;
        let mut pause = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        // The first registration is question enough: asking before whether anybody is there would double the
        // handshakes when a thousand workers come at once. After it failed, asking says best why.
        let mut ask = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let file = self.whereabouts.find(left, ask).await?;
            self.serve(&file).await?;
            let timeout = self.config.network.connect_timeout.0;
            match register(&file, self.introduction(), timeout).await {
                Ok(answer) => {
                    if let Answer::Registered(link) = &answer {
                        let worker = link.registered.worker;
                        // Other workers may come as soon as they hear of this one.
                        self.served.epoch.store(link.registered.epoch, Ordering::Release);
                        tracing::info!(cluster = file.id, %worker, "worker {} has registered", self.name);
                    }
                    return Ok(answer);
                }
                Err(error) if ask && Instant::now() >= deadline => return Err(error),
                Err(error) => tracing::info!("cannot register, trying again: {error}"),
            }
            ask = true;
            tokio::time::sleep(pause.next_delay()).await;
        }
    }

    /// Serves results to those who have the cluster's credentials. A new cluster needs a new listener.
    async fn serve(&mut self, file: &SchedulerFile) -> Result<()> {
        let authority = &file.credentials.ca;
        if self.server.as_ref().is_some_and(|(ca, _)| ca == authority) {
            return Ok(());
        }
        if let Some((_, server)) = self.server.take() {
            server.stop().await;
        }
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => {
                let bound = bind(&listen_options(&self.config.worker)).await?;
                self.address = bound.address;
                bound.listener
            }
        };
        let tls = ServerTls::new(&file.role_credentials(Role::Worker)?, &file.id)?.sending_much();
        self.server = Some((authority.clone(), Server::start(listener, tls, self.served.clone())));
        Ok(())
    }

    fn introduction(&self) -> Register {
        let resources = self.config.worker.resources.iter();
        Register {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            incarnation: self.incarnation,
            name: self.name.clone(),
            host: self.host.clone(),
            pid: std::process::id(),
            address: self.address.to_string(),
            slots: self.slots,
            resources: resources.map(|(name, amount)| (name.clone(), amount.0)).collect::<BTreeMap<_, _>>(),
            memory_limit: self.memory_limit,
            memory_target: self.memory.thresholds.and_then(|t| t.admission_bound()),
            memory_thresholds: self
                .memory
                .thresholds
                .map_or([None; 4], |t| [t.target, t.spill, t.pause, t.terminate]),
            job_id: self.job_id.clone(),
            pool: self.config.worker.pool.clone(),
            preemptible: self.config.worker.preemptible,
            leaves_in_ms: self.until.map(|(at, _)| {
                let left = at.saturating_duration_since(tokio::time::Instant::now());
                u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
            }),
            predecessor: self.predecessor.clone().map(|p| (p.incarnation, p.end)),
            // Coming back with data is for later; until then a lost connection costs the results.
            holds: Vec::new(),
        }
    }

    /// Works for one scheduler after the other, until the end.
    async fn live(mut self, link: Link, mut requests: mpsc::UnboundedReceiver<Request>) -> Result<Ending> {
        let mut link = Some(link);
        let ending = loop {
            let mut driver = match link.take() {
                Some(link) => self.driver(link),
                None => tokio::select! {
                    joined = self.join() => match joined {
                        Ok(Answer::Registered(link)) => self.driver(*link),
                        Ok(Answer::Refused(reason)) => break Ok(Ending::Refused(reason)),
                        Err(e) if matches!(e.kind, Kind::NoScheduler | Kind::Timeout) => {
                            tracing::warn!("leaving, no scheduler within the death-timeout: {e}");
                            break Ok(Ending::SchedulerGone);
                        }
                        Err(e) => break Err(e),
                    },
                    // Nobody is there to whom anything could be handed over.
                    _ = requests.recv() => break Ok(Ending::Stopped),
                },
            };
            let end = driver.run(&mut requests, &mut self.brought).await;
            driver.work.abort();
            match end {
                End::Over(ending) => {
                    let renews = driver.is_aged && self.config.worker.lifetime_restart;
                    driver.finish_saving(&ending).await;
                    driver.farewell(&ending).await;
                    break Ok(match ending {
                        Ending::Dismissed | Ending::Stopped if renews => Ending::Renewed,
                        other => other,
                    });
                }
                End::Lost(why) => {
                    tracing::warn!("lost the scheduler, looking for it again: {why}");
                    drop(driver);
                    self.start_over(why).await;
                }
            }
        };
        self.end_tasks().await;
        ending
    }

    fn driver(&mut self, link: Link) -> Driver {
        let (settings, registered) = (&self.config.worker, &link.registered);
        let patience = Patience { connect: self.config.network.connect_timeout.0, ..Patience::default() };
        let traffic = self.served.traffic.clone();
        let client = Client::new(link.tls.clone(), registered.epoch, patience, traffic.clone());
        let memory = Memory::new(self.memory.clone());
        let work = Work::new(
            &self.name,
            self.slots,
            registered,
            (self.pool.clone(), self.python.clone()),
            memory,
            client,
        );
        let terms = Terms {
            idle: settings.idle_timeout.map(|t| t.0),
            until: self.until,
            retire: settings.retire_timeout.0,
        };
        let logs = last_words::directory(self.directory.path());
        let answers = Answers::new(&link, (self.book.clone(), self.profiler.clone()), self.incarnation, logs);
        // What it tells of the life before is of use to nobody after this registration.
        if let Some(before) = &mut self.predecessor
            && let Some(left) = before.left.take()
        {
            answers.tell_of(before.incarnation, left);
        }
        Driver::new(link, work, terms, self.embedded, traffic, self.ended.clone(), answers)
    }

    /// After the scheduler was lost: no task and no result counts any more, and the worker is another one to
    /// the next scheduler. Waits for the tasks, but not for ever.
    async fn start_over(&mut self, why: String) {
        let patience = self.config.worker.kill_grace.0 + Duration::from_secs(5);
        let until = Instant::now() + patience;
        while !self.pool.running().is_empty() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(self.pool.take_finished());
        // Whoever brought it hears that it is not kept.
        while self.brought.try_recv().is_ok() {}
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = Store::default();
        let before = std::mem::replace(&mut self.incarnation, Incarnation::new_v4());
        let end = format!("it lost its connection: {why}");
        let left = Some(last_words::directory(self.directory.path()));
        self.predecessor = Some(Predecessor { incarnation: before, end, left });
    }

    /// Ends what still runs and what tasks left behind, and waits for that off the event loop.
    async fn end_tasks(&self) {
        let patience = self.config.worker.kill_grace.0 + Duration::from_secs(5);
        let (pool, directory) = (self.pool.clone(), self.directory.path().to_path_buf());
        let ended = tokio::task::spawn_blocking(move || {
            let stuck = pool.shutdown(true, patience);
            let killed = kill_strays(&directory);
            if killed > 0 {
                tracing::info!(killed, "killed processes that tasks left behind");
            }
            stuck
        });
        let stuck = ended.await;
        match stuck {
            Ok(stuck) if !stuck.is_empty() => tracing::warn!("{} tasks do not end", stuck.len()),
            _ => {}
        }
    }
}

/// What this worker's host is called: the batch system's name for it, by which its users know it, else its
/// own.
fn host_name(variable: &dyn Fn(&str) -> Option<String>) -> String {
    let own = || hostname::get().map_or_else(|_| "unknown".into(), |h| h.to_string_lossy().into_owned());
    variable("SLURMD_NODENAME").filter(|name| !name.trim().is_empty()).unwrap_or_else(own)
}

/// Where what tasks print is kept, if it is.
fn book(settings: &Settings, directory: &Directory) -> Option<Arc<Book>> {
    let stream = settings.logs.task.filter(|size| size.0 > 0)?;
    match Book::create(directory.path(), stream.0, settings.logs.total.0) {
        Ok(book) => Some(Arc::new(book)),
        Err(error) => {
            tracing::warn!("what tasks print is not kept: {error}");
            None
        }
    }
}

/// What tasks are told of this worker.
fn facts(
    settings: &Settings,
    (name, host): (&str, &str),
    scheduler_file: &std::path::Path,
    directory: &Directory,
) -> WorkerFacts {
    let own = std::env::vars_os().filter(|(name, _)| !is_internal_variable(name));
    let file = std::path::absolute(scheduler_file).unwrap_or_else(|_| scheduler_file.into());
    WorkerFacts {
        name: name.to_string(),
        scheduler_file: Some(file),
        local_directory: directory.path().to_path_buf(),
        shell: settings.shell.clone(),
        env: Arc::new(Shared::of(task_environment(own))),
        umask: own_umask(),
        host: host.to_string(),
        launcher: settings.mpirun.iter().filter(|_| settings.mpirun != ["auto"]).cloned().collect(),
        gpus: settings.resources.get("gpus").map_or(0, |amount| amount.0),
    }
}

/// Native functions, and the program that has them too.
struct Natives {
    registry: Registry,
    program: Option<Program>,
}

/// What runs tasks.
fn runner(
    settings: &Settings,
    facts: WorkerFacts,
    natives: Natives,
    memory: &Parts,
    slots: u32,
) -> Result<Runner> {
    let grace = settings.kill_grace.0;
    let commands = CommandExecutor { kill_grace: grace, ..CommandExecutor::default() };
    if !settings.native_isolation {
        return Ok(Runner::new(facts, commands, NativeExecutor::new(Arc::new(natives.registry))));
    }
    let Some(program) = natives.program else {
        let text = "native functions cannot be isolated: this program names none that executes them";
        return Err(Error::new(Kind::Config, text).hint("set worker.native-isolation = false"));
    };
    let mut env = facts.env.vars().clone();
    env.insert("HPCDAG_WORKER".into(), facts.name.clone().into());
    env.insert("HPCDAG_EXECUTOR".into(), "1".into());
    let limit = memory.thresholds.map(|t| t.limit);
    let keeps = settings.memory.executor_idle.map_or_else(|| idle_bytes(limit, slots), |size| size.0);
    let natives = IsolatedNatives::new(program, env, grace, keeps, memory.executors.clone());
    Ok(Runner::new(facts, commands, natives))
}

/// What an idle Python executor may keep beyond its first call, bytes, where nothing is configured.
const PYTHON_IDLE_BYTES: (u64, u64) = (64 << 20, 2 << 30);

/// The same for all of them together, as a part of the memory limit: one of this many.
const PYTHON_IDLE_PART: u64 = 4;

/// What runs calls.
fn python(settings: &Settings, facts: &WorkerFacts, enforce: bool, memory: &Parts, slots: u32) -> Python {
    let mut env = facts.env.vars().clone();
    env.insert("HPCDAG_WORKER".into(), facts.name.clone().into());
    if let Some(file) = &facts.scheduler_file {
        env.insert("HPCDAG_SCHEDULER_FILE".into(), file.clone().into());
    }
    let interval = settings.profile.interval.map_or(0.0, |interval| interval.0.as_secs_f64());
    env.insert("HPCDAG_PROFILE_INTERVAL".into(), interval.to_string().into());
    let (least, most) = PYTHON_IDLE_BYTES;
    let limit = memory.thresholds.map(|t| t.limit);
    let share = |limit: u64| (limit / PYTHON_IDLE_PART / u64::from(slots.max(1))).clamp(least, most);
    let (processes, threads) = python::divide(slots, settings.python.processes);
    Python::new(python::Facts {
        executable: settings.python.executable.clone(),
        preload: settings.python.preload.clone().unwrap_or_default(),
        zygote: settings.python.zygote,
        env,
        dir: facts.local_directory.clone(),
        grace: settings.kill_grace.0,
        idle_bytes: settings.memory.executor_idle.map_or_else(|| limit.map_or(most, share), |size| size.0),
        idle_max: (processes * threads).max(slots) as usize,
        threads,
        processes: processes as usize,
        enforce,
        counts: memory.executors.clone(),
    })
}

/// How declared memory is enforced. `nanny` is moved along with this process where control groups are used.
fn enforce(settings: &Settings, embedded: bool, nanny: Option<i32>) -> Enforce {
    if !settings.memory.enforce {
        return Enforce::Never;
    }
    let ours: Vec<u32> =
        nanny.and_then(|pid| u32::try_from(pid).ok()).into_iter().chain([std::process::id()]).collect();
    let groups = match embedded {
        true => Err("a program that embeds hpcdag is left in its group".into()),
        false => Groups::find(&ours),
    };
    match groups {
        Ok(groups) => {
            tracing::info!("declared memory is a hard limit, kept by a control group for each task");
            Enforce::Groups(groups)
        }
        Err(why) => {
            tracing::info!("declared memory is a hard limit, kept by watching: {why}");
            Enforce::Watching
        }
    }
}

fn listen_options(settings: &Settings) -> ListenOptions {
    // The default says the same as nothing, and nothing may stand beside a host.
    let interface = Some(settings.interface.join(",")).filter(|list| list != "auto");
    let port = PortRange { first: settings.port.first, last: settings.port.last };
    ListenOptions { host: settings.host.clone(), interface, port }
}

/// When a worker is to leave, and why: its lifetime is over, or its job is about to end.
fn leaves_at(
    settings: &Settings,
    job_end: Option<SystemTime>,
) -> Option<(tokio::time::Instant, &'static str)> {
    let now = tokio::time::Instant::now();
    let lifetime = lifetime(settings).map(|time| (now + time, LIFETIME_OVER));
    let job = job_end.map(|end| {
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        (now + left.saturating_sub(settings.walltime_margin.0.min(left / 4)), "its batch job is about to end")
    });
    [lifetime, job].into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// The lifetime, varied by up to its stagger in both directions.
fn lifetime(settings: &Settings) -> Option<Duration> {
    let shift = settings.lifetime_stagger.0.mul_f64(fastrand::f64());
    let lifetime = settings.lifetime?.0;
    Some(if fastrand::bool() { lifetime + shift } else { lifetime.saturating_sub(shift) })
}

fn checked_name(name: String) -> Result<String> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    if !name.is_empty() && name.len() <= 200 && name.chars().all(plain) {
        return Ok(name);
    }
    Err(Error::new(Kind::Usage, format!("{name:?} cannot be a worker's name"))
        .hint("use up to 200 characters without spaces"))
}

/// The memory of a worker with this limit.
fn memory_parts(settings: &Settings, limit: Option<u64>, directory: &Directory) -> Result<Parts> {
    let fault = |e| Error::os("cannot start the threads that look after memory", e);
    let thresholds = limit.map(|limit| memory::thresholds(&settings.memory, limit));
    let store = Arc::new(Mutex::new(Store::default()));
    let gauge = Gauge::start().map_err(fault)?;
    let spills = thresholds.is_some_and(|t| t.target.is_some() || t.spill.is_some());
    let spiller = if spills {
        if let Some(complaint) = spill::complaint(directory.path()) {
            tracing::warn!("{complaint}");
        }
        let bytes_max = settings.memory.max_spill.map(|size| size.0);
        let spill = Spill::new(directory.path(), bytes_max, RealDisk);
        let freed = Arc::downgrade(&gauge);
        let tell = move || freed.upgrade().iter().for_each(|gauge| gauge.poke());
        Some(Arc::new(Spiller::start(store.clone(), spill, tell).map_err(fault)?))
    } else {
        None
    };
    if Enforcement::find().every_mapping_counts {
        tracing::info!("the job's memory is summed over processes: every mapping of a result counts");
        gauge.count_every_mapping();
    }
    Ok(Parts { gauge, spiller, thresholds, store, executors: Arc::default() })
}
