//! Whole workers over loopback, with a scheduler that is played by the test and speaks the raw protocol.

use super::executor::native::Registry;
use super::{Ending, Options, Worker};
use crate::base::ids::{Attempt, FamilyIx, RunId, RunUuid, TaskRef, WorkerId};
use crate::base::priority::Priority;
use crate::base::units::{ByteSize, Span};
use crate::config::{Config, Fraction, MemoryLimit};
use crate::graph::items::{Item, Items};
use crate::graph::layer::SLOT;
use crate::graph::spec::{Action, Input as SpecInput, Stdin, TaskSpec};
use crate::net::address::{ListenOptions, PortRange, bind};
use crate::net::connection::Connection;
use crate::net::fetch::{Fetcher, Patience, Sink};
use crate::net::listener::Listener;
use crate::net::scheduler_file::{self, SchedulerFile};
use crate::net::tls::{ClientTls, ServerTls};
use crate::protocol::credentials::{ClusterCredentials, Role};
use crate::protocol::messages::client::{Empty, Reason};
use crate::protocol::messages::compute::{Compute, Input, Task, Tasks};
use crate::protocol::messages::peer::PartHeader;
use crate::protocol::messages::report::News;
use crate::protocol::messages::worker::{
    Attempts, Families, FamilyInfo, ForgetRun, FromWorker, Heartbeat, Peers, Register, Registered, ToWorker,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod calls;
mod process;
mod seen;
mod spilling;

const SOON: Duration = Duration::from_secs(60);
const EPOCH: u32 = 3;

/// A scheduler played by a test.
struct Played {
    dir: tempfile::TempDir,
    cluster: ClusterCredentials,
    listener: Listener,
    file: SchedulerFile,
    config: Config,
    heartbeat_ms: u64,
}

/// A registered worker as the scheduler sees it.
struct Session {
    connection: Connection<ToWorker, FromWorker>,
    register: Register,
}

async fn played() -> Played {
    let dir = tempfile::tempdir().unwrap();
    let cluster = ClusterCredentials::create("test").unwrap();
    let options =
        ListenOptions { host: Some("127.0.0.1".into()), interface: None, port: PortRange::default() };
    let bound = bind(&options).await.unwrap();
    let tls = ServerTls::new(&cluster.issue(Role::Scheduler).unwrap(), "test").unwrap();
    let listener = Listener::new(bound.listener, tls, &[Role::Worker, Role::Client]);
    let file = SchedulerFile::new(&cluster, bound.address, EPOCH).unwrap();
    let mut config = Config::defaults();
    config.worker.host = Some("127.0.0.1".into());
    config.worker.death_timeout = Span(Duration::from_secs(20));
    let local = dir.path().join("local").to_string_lossy().into_owned();
    config.worker.local_directory = Some(crate::config::PathTemplate::new(local).unwrap());
    Played { dir, cluster, listener, file, config, heartbeat_ms: 100 }
}

impl Played {
    fn path(&self) -> PathBuf {
        self.dir.path().join("scheduler.json")
    }

    async fn publish(&self) {
        scheduler_file::write(&self.path(), &self.file, scheduler_file::probe).await.unwrap();
    }

    fn options(&self, name: &str, nthreads: u32) -> Options {
        Options {
            config: Arc::new(self.config.clone()),
            scheduler_file: self.path(),
            address: None,
            name: Some(name.into()),
            nthreads: Some(nthreads),
            natives: Registry::default(),
            executor: None,
            embedded: true,
            supervision: None,
            job_id: None,
            job_end: None,
        }
    }

    /// The next worker that registers; probes of the file are passed over.
    async fn accept(&mut self, id: u32) -> Session {
        loop {
            let accepted = soon(self.listener.accept()).await.unwrap();
            if accepted.role != Role::Worker {
                continue;
            }
            let mut connection = accepted.into_connection::<ToWorker, FromWorker>();
            let Some(FromWorker::Register(register)) = soon(connection.receiver.recv()).await.unwrap() else {
                panic!("a registration");
            };
            connection.receiver.welcome();
            let (worker, heartbeat_ms) = (WorkerId(id), self.heartbeat_ms);
            let registered = Registered { worker, epoch: EPOCH, cluster: "test".into(), heartbeat_ms };
            connection.sender.send(ToWorker::Registered(registered)).await.unwrap();
            return Session { connection, register };
        }
    }

    async fn worker(&mut self, name: &str, id: u32) -> (Worker, Session) {
        let options = self.options(name, 2);
        let start = tokio::spawn(Worker::start(options));
        let session = self.accept(id).await;
        (soon(start).await.unwrap().unwrap(), session)
    }

    fn left_behind(&self) -> usize {
        let own = self.dir.path().join("local").join(format!("hpcdag-{}", nix::unistd::geteuid()));
        std::fs::read_dir(own).map_or(0, |entries| entries.count())
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it should not take so long")
}

fn task(index: u32) -> TaskRef {
    TaskRef { run: RunId(1), index }
}

const FIRST: Attempt = Attempt { epoch: EPOCH, n: 1 };

fn spec(name: &str, shell: &str, inputs: &[&str]) -> TaskSpec {
    let input = |p: &&str| SpecInput { producer: p.to_string(), materialize: false, file_name: None };
    TaskSpec {
        name: name.into(),
        action: Action::Shell(shell.into()),
        inputs: inputs.iter().map(input).collect(),
        outputs: vec![],
        stdin: Stdin::Auto,
        env: BTreeMap::new(),
        setup: None,
        cwd: None,
        base_dir: "/".into(),
        umask: 0o022,
        ok_exit: vec![0],
        max_output: None,
        time_limit_ms: None,
        memory: vec![],
        nthreads: 1,
        shell: vec![],
        nodes: None,
        gpus: 0,
        params: BTreeMap::new(),
        kept: None,
        checkpoint: None,
    }
}

fn info(family: u32, spec: TaskSpec, items: Items) -> FamilyInfo {
    FamilyInfo { family: FamilyIx(family), spec, items, shape: None, fan_in: None, writes: vec![] }
}

/// One task to hand over: index in the run, family, element, inputs with their holders, value.
struct Handed(u32, u32, u32, Vec<(u32, Vec<u32>)>, Option<&'static str>);

impl Session {
    async fn say(&self, message: ToWorker) {
        self.connection.sender.send(message).await.unwrap();
    }

    async fn families(&self, families: Vec<FamilyInfo>) {
        self.say(ToWorker::Families(Families { run: RunId(1), uuid: RunUuid::nil(), families })).await;
    }

    async fn compute(&self, handed: Vec<Handed>) {
        let mut tasks = Tasks::default();
        for (at, Handed(index, family, element, inputs, item)) in handed.into_iter().enumerate() {
            for (input, holders) in inputs {
                tasks.holders.extend(holders.into_iter().map(WorkerId));
                let holders_end = tasks.holders.len() as u32;
                tasks.inputs.push(Input { task: task(input), nbytes: 10, edge: 0, holders_end });
            }
            if let Some(item) = item {
                tasks.items.push((at as u32, Item::Text(item.into())));
            }
            tasks.tasks.push(Task {
                task: task(index),
                attempt: FIRST,
                tries: 0,
                family: FamilyIx(family),
                element,
                priority: Priority { user: 0, generation: 0, rank: u64::from(index) },
                slots: SLOT,
                keep: true,
                inputs_end: tasks.inputs.len() as u32,
            });
        }
        self.say(ToWorker::Compute(Compute::pack(EPOCH, &tasks))).await;
    }

    /// Gathers news until they satisfy. Heartbeats are passed over.
    async fn news(&mut self, enough: impl Fn(&News) -> bool) -> News {
        let mut all = News::default();
        while !enough(&all) {
            match self.next().await {
                FromWorker::Report(report) => {
                    let news = report.unpack().unwrap();
                    all.started.extend(news.started);
                    all.finished.extend(news.finished);
                    all.replicas.extend(news.replicas);
                    all.rare.failed.extend(news.rare.failed);
                    all.rare.missing.extend(news.rare.missing);
                    all.rare.returned.extend(news.rare.returned);
                    all.rare.kept.extend(news.rare.kept);
                    all.rare.stored.extend(news.rare.stored);
                    all.rare.paused = news.rare.paused.or(all.rare.paused);
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
        all
    }

    /// Waits until the worker is past its start.
    async fn heartbeat(&mut self) {
        let message = soon(self.connection.receiver.recv()).await.unwrap();
        assert!(matches!(message, Some(FromWorker::Heartbeat(_))), "{message:?}");
    }

    async fn next(&mut self) -> FromWorker {
        loop {
            match soon(self.connection.receiver.recv()).await.unwrap().expect("more messages") {
                FromWorker::Heartbeat(_) | FromWorker::Spans(_) => {}
                other => return other,
            }
        }
    }
}

/// Fetches as a client does.
#[derive(Default)]
struct Got(Vec<(TaskRef, Option<Vec<u8>>)>);

impl Sink for Got {
    async fn begin(
        &mut self,
        task: TaskRef,
        parts: Option<Vec<PartHeader>>,
    ) -> crate::base::error::Result<()> {
        self.0.push((task, parts.map(|_| Vec::new())));
        Ok(())
    }

    async fn piece(&mut self, bytes: Bytes) -> crate::base::error::Result<()> {
        if let Some((_, Some(content))) = self.0.last_mut() {
            content.extend_from_slice(&bytes);
        }
        Ok(())
    }

    async fn end(&mut self) -> crate::base::error::Result<()> {
        Ok(())
    }
}

impl Played {
    async fn fetch(&self, from: &Session, epoch: u32, tasks: &[TaskRef]) -> Result<Got, String> {
        let tls = ClientTls::new(&self.cluster.issue(Role::Client).unwrap(), "test").unwrap();
        let address = from.register.address.parse().unwrap();
        let fetcher = soon(Fetcher::connect(&address, &tls, epoch, Patience::default())).await;
        let mut fetcher = fetcher.map_err(|e| e.to_string())?;
        let mut got = Got::default();
        soon(fetcher.get(tasks, &mut got)).await.map_err(|e| e.to_string())?;
        Ok(got)
    }
}

#[tokio::test]
async fn isolation_needs_a_program_that_has_the_functions() {
    let mut played = played().await;
    played.config.worker.native_isolation = true;
    let error = soon(Worker::start(played.options("w", 1))).await.err().unwrap();
    assert_eq!(error.kind, crate::base::error::Kind::Config);
    assert!(error.message.contains("cannot be isolated"), "{error}");
}

#[tokio::test]
async fn a_command_runs_and_its_result_is_served() {
    let mut played = played().await;
    let start = tokio::spawn(Worker::start(played.options("w", 2)));
    // It was there before the scheduler.
    tokio::time::sleep(Duration::from_millis(200)).await;
    played.publish().await;
    let mut session = played.accept(1).await;
    let mut worker = soon(start).await.unwrap().unwrap();
    assert_eq!((worker.name(), session.register.slots), ("w", 2 * SLOT));
    let line = "echo $HPCDAG_KEY $HPCDAG_ITEM $HPCDAG_WORKER; head -c 3000000 /dev/zero";
    session.families(vec![info(0, spec("a", line, &[]), Items::Index)]).await;
    session.compute(vec![Handed(5, 0, 2, vec![], Some("x y"))]).await;
    let news = session.news(|news| !news.finished.is_empty()).await;
    let (done, attempt, nbytes, ns) = news.finished[0];
    assert_eq!((done, attempt, nbytes), (task(5), FIRST, 3_000_000 + 11));
    assert!(ns > 0);
    let got = played.fetch(&session, EPOCH, &[task(5), task(6)]).await.unwrap().0;
    let content = got[0].1.as_ref().unwrap();
    assert_eq!((&content[..11], content.len()), (&b"a[2] x y w\n"[..], 3_000_011));
    assert_eq!(got[1], (task(6), None));
    let other = played.fetch(&session, EPOCH + 1, &[task(5)]).await.err().unwrap();
    assert!(other.contains("epoch"), "{other}");
    session.say(ToWorker::Free(crate::protocol::messages::worker::Tasks { tasks: vec![task(5)] })).await;
    session.say(ToWorker::ForgetRun(ForgetRun { run: RunId(1) })).await;
    session.compute(vec![Handed(7, 0, 0, vec![], None)]).await;
    let news = session.news(|news| !news.rare.failed.is_empty()).await;
    assert!(news.rare.failed[0].2.to_string().contains("does not know family"), "{news:?}");
    assert_eq!(played.fetch(&session, EPOCH, &[task(5)]).await.unwrap().0, [(task(5), None)]);
    worker.stop();
    assert_eq!(soon(worker.wait()).await.unwrap(), Ending::Stopped);
    assert!(matches!(session.next().await, FromWorker::Goodbye(_)));
    assert_eq!(played.left_behind(), 0);
}

#[tokio::test]
async fn failures_arrive_with_their_stderr() {
    let mut played = played().await;
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 1).await;
    session.families(vec![info(0, spec("a", "echo oh dear >&2; exit 3", &[]), Items::Single)]).await;
    session.compute(vec![Handed(0, 0, 0, vec![], None)]).await;
    let news = session.news(|news| !news.rare.failed.is_empty()).await;
    let (_, _, failure) = &news.rare.failed[0];
    assert_eq!(failure.to_string(), "exit status 3");
    assert!(failure.stderr_tail.contains("oh dear") && failure.command.contains("exit 3"), "{failure:?}");
}

#[tokio::test]
async fn a_worker_fetches_from_another() {
    let mut played = played().await;
    played.publish().await;
    let (_one, mut first) = played.worker("one", 1).await;
    let (_two, mut second) = played.worker("two", 2).await;
    let families = || {
        let make = spec("make", "head -c 200000 /dev/zero; echo {item}", &[]);
        vec![
            info(0, make, Items::Range { start: 10, step: 1 }),
            info(1, spec("count", "wc -c; ls -d {inputs...} | wc -l", &["make"]), Items::Single),
        ]
    };
    first.families(families()).await;
    second.families(families()).await;
    first.compute((0..20).map(|i| Handed(i, 0, i, vec![], None)).collect()).await;
    first.news(|news| news.finished.len() == 20).await;
    second.say(ToWorker::Peers(Peers { peers: vec![(WorkerId(1), first.register.address.clone())] })).await;
    let mut count = spec("count", "cat {inputs...} | wc -c; wc -c; echo done", &["make"]);
    count.stdin = Stdin::Inputs;
    second.families(vec![info(1, count, Items::Single)]).await;
    second.compute(vec![Handed(20, 1, 0, (0..20).map(|i| (i, vec![1])).collect(), None)]).await;
    let news = second.news(|news| !news.finished.is_empty() || !news.rare.failed.is_empty()).await;
    assert_eq!(news.rare.failed, []);
    assert_eq!(news.replicas.len(), 20);
    let got = played.fetch(&second, EPOCH, &[task(20)]).await.unwrap().0;
    let all = 20 * (200_000 + 3);
    let text = String::from_utf8(got[0].1.clone().unwrap()).unwrap();
    assert_eq!(text, format!("{all}\n{all}\ndone\n"));
}

#[tokio::test]
async fn inputs_that_nobody_has_are_missing() {
    let mut played = played().await;
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 1).await;
    let families = vec![info(0, spec("a", "cat", &["b"]), Items::Single)];
    session.families(families).await;
    // Worker 7 has no address at all; nobody listens at that of worker 8.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    session.say(ToWorker::Peers(Peers { peers: vec![(WorkerId(8), format!("tls://{gone}"))] })).await;
    session.compute(vec![Handed(1, 0, 0, vec![(0, vec![7, 8])], None)]).await;
    let news = session.news(|news| !news.rare.missing.is_empty()).await;
    let (missing, attempt, inputs) = &news.rare.missing[0];
    assert_eq!((*missing, *attempt), (task(1), FIRST));
    let mut from: Vec<u32> = inputs.iter().map(|(_, worker)| worker.0).collect();
    from.sort_unstable();
    assert_eq!(from, [7, 8]);
}

#[tokio::test]
async fn what_waits_can_be_stolen_and_what_runs_cancelled() {
    let mut played = played().await;
    played.publish().await;
    let (mut worker, mut session) = played.worker("w", 1).await;
    session.families(vec![info(0, spec("a", "sleep 600", &[]), Items::Single)]).await;
    session.compute((0..3).map(|i| Handed(i, 0, i, vec![], None)).collect()).await;
    session.news(|news| news.started.len() == 2).await;
    let steal = [0, 2].map(|i| (task(i), FIRST)).to_vec();
    session.say(ToWorker::Steal(Attempts { attempts: steal })).await;
    let news = session.news(|news| !news.rare.returned.is_empty() && !news.rare.kept.is_empty()).await;
    assert_eq!(news.rare.returned, [(task(2), FIRST)]);
    assert_eq!(news.rare.kept, [(task(0), FIRST)]);
    session.say(ToWorker::Cancel(Attempts { attempts: vec![(task(0), FIRST)] })).await;
    // Its slot is free again; what runs there now shows how the cancelled one ended.
    session.families(vec![info(1, spec("b", "true", &[]), Items::Single)]).await;
    session.compute(vec![Handed(4, 1, 0, vec![], None)]).await;
    let news = session.news(|news| !news.finished.is_empty()).await;
    assert_eq!((news.finished[0].0, news.rare.failed.len()), (task(4), 0));
    session.say(ToWorker::Stop(Reason { reason: "the end".into() })).await;
    assert_eq!(soon(worker.wait()).await.unwrap(), Ending::Stopped);
    assert_eq!(played.left_behind(), 0);
}

#[tokio::test]
async fn stopping_leaves_no_process_behind() {
    let mut played = played().await;
    played.publish().await;
    let (mut worker, session) = played.worker("w", 1).await;
    let note = played.dir.path().join("pids");
    let line = format!("sleep 600 & echo $$ $! > {}; wait", note.display());
    session.families(vec![info(0, spec("a", &line, &[]), Items::Single)]).await;
    session.compute(vec![Handed(0, 0, 0, vec![], None)]).await;
    let pids: Vec<i32> = soon(async {
        loop {
            let text = std::fs::read_to_string(&note).unwrap_or_default();
            if text.ends_with('\n') {
                return text.split_whitespace().map(|p| p.parse().unwrap()).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    session.say(ToWorker::Stop(Reason { reason: "the end".into() })).await;
    assert_eq!(soon(worker.wait()).await.unwrap(), Ending::Stopped);
    for pid in pids {
        // The orphan may not have been reaped by whoever inherited it.
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
}

#[tokio::test]
async fn retiring_ends_with_the_dismissal_or_with_patience() {
    let mut played = played().await;
    played.config.worker.retire_timeout = Span(Duration::from_millis(300));
    played.publish().await;
    let (mut worker, mut session) = played.worker("w", 1).await;
    worker.retire("enough");
    let FromWorker::Retiring(reason) = session.next().await else { panic!("no word of retiring") };
    assert_eq!(reason.reason, "enough");
    session.say(ToWorker::Dismiss(Empty {})).await;
    assert_eq!(soon(worker.wait()).await.unwrap(), Ending::Dismissed);
    let (mut worker, mut session) = played.worker("w2", 2).await;
    session.say(ToWorker::Retire(Reason { reason: "go".into() })).await;
    assert!(matches!(session.next().await, FromWorker::Retiring(_)));
    assert_eq!(soon(worker.wait()).await.unwrap(), Ending::Stopped);
}

#[tokio::test]
async fn an_idle_worker_retires() {
    let mut played = played().await;
    played.config.worker.idle_timeout = Some(Span(Duration::from_millis(200)));
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 1).await;
    let FromWorker::Retiring(reason) = session.next().await else { panic!("no word of retiring") };
    assert!(reason.reason.contains("nothing to do"), "{}", reason.reason);
}

#[tokio::test]
async fn a_lost_scheduler_is_looked_for() {
    let mut played = played().await;
    played.config.worker.death_timeout = Span(Duration::from_millis(1500));
    played.publish().await;
    let (mut worker, session) = played.worker("w", 1).await;
    session.families(vec![info(0, spec("a", "sleep 600", &[]), Items::Single)]).await;
    session.compute(vec![Handed(0, 0, 0, vec![], None)]).await;
    let before = session.register.incarnation;
    drop(session);
    let again = played.accept(2).await;
    assert_ne!(again.register.incarnation, before);
    assert_eq!(again.register.predecessor.map(|p| p.0), Some(before));
    scheduler_file::remove(&played.path(), &played.file).unwrap();
    drop(again.connection);
    assert_eq!(soon(worker.wait()).await.unwrap(), Ending::SchedulerGone);
    assert_eq!(played.left_behind(), 0);
}

#[tokio::test]
async fn a_scheduler_that_is_too_busy_is_tried_again() {
    let mut played = played().await;
    played.config.network.connect_timeout = Span(Duration::from_millis(500));
    played.publish().await;
    let options = played.options("w", 1);
    let start = tokio::spawn(Worker::start(options));
    // It registers at once, without a connection that only asks whether somebody is there.
    let first = soon(played.listener.accept()).await.unwrap();
    assert_eq!(first.role, Role::Worker);
    drop(first);
    // Later ones hear nothing at all.
    let mut unheard = Vec::new();
    while unheard.len() < 2 {
        unheard
            .extend(Some(soon(played.listener.accept()).await.unwrap()).filter(|a| a.role == Role::Worker));
    }
    let session = played.accept(1).await;
    assert_eq!(session.register.name, "w");
    drop((soon(start).await.unwrap().unwrap(), session, unheard));
}

#[tokio::test]
async fn files_are_written_before_the_attempt_is_finished() {
    let mut played = played().await;
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 1).await;
    let base = played.dir.path().join("out");
    let mut family =
        info(0, spec("a", "[ {index} = 1 ] || echo {item}", &[]), Items::Range { start: 5, step: 1 });
    family.spec.base_dir = base.clone();
    family.writes = vec![(None, "deep/{index}.txt".into(), true)];
    session.families(vec![family]).await;
    session.compute((0..2).map(|i| Handed(i, 0, i, vec![], None)).collect()).await;
    let news = session.news(|news| news.finished.len() + news.rare.failed.len() == 2).await;
    assert_eq!(news.rare.failed, []);
    assert_eq!(std::fs::read_to_string(base.join("deep/0.txt")).unwrap(), "5\n");
    assert_eq!(std::fs::read_dir(base.join("deep")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_refusal_ends_the_start() {
    let mut played = played().await;
    played.publish().await;
    let start = tokio::spawn(Worker::start(played.options("w", 1)));
    loop {
        let accepted = soon(played.listener.accept()).await.unwrap();
        if accepted.role != Role::Worker {
            continue;
        }
        let mut connection = accepted.into_connection::<ToWorker, FromWorker>();
        soon(connection.receiver.recv()).await.unwrap();
        let reason = "there is a w already".to_string();
        connection.sender.send(ToWorker::Refused(Reason { reason })).await.unwrap();
        break;
    }
    let error = soon(start).await.unwrap().err().unwrap();
    assert!(error.message.contains("there is a w already"), "{error}");
    assert_eq!(played.left_behind(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_tasks_share_reports() {
    const TASKS: usize = 20_000;
    let mut played = played().await;
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 2).await;
    let mut noop = spec("a", "", &[]);
    noop.action = Action::Native { function: "noop".into(), args: serde_json::Value::Null };
    session.families(vec![info(0, noop, Items::Index)]).await;
    session.compute((0..TASKS as u32).map(|i| Handed(i, 0, i, vec![], None)).collect()).await;
    let (mut finished, mut reports) = (0, 0);
    while finished < TASKS {
        if let FromWorker::Report(report) = session.next().await {
            finished += report.unpack().unwrap().finished.len();
            reports += 1;
        }
    }
    assert_eq!(finished, TASKS);
    assert!(reports < TASKS / 2, "{reports} reports");
}
