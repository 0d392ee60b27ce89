//! The scheduler through its connections: fake workers and clients that speak the protocol over loopback TLS.

mod views;

use super::core::event::BYTES_MAX;
use super::{Options, Scheduler};
use crate::base::ids::{Attempt, FamilyIx, TaskRef, WorkerId};
use crate::config::Config;
use crate::graph::items::{Item, Items};
use crate::graph::layer::{Edge, Layer, Pattern, SLOT, Size};
use crate::graph::spec::{Action, Input, Stdin, TaskSpec};
use crate::graph::{By, Family, Graph, GraphOutput, Packed};
use crate::net::connection::{Connection, connect};
use crate::net::scheduler_file;
use crate::net::tls::ClientTls;
use crate::protocol::PROTOCOL;
use crate::protocol::credentials::Role;
use crate::protocol::messages::client::*;
use crate::protocol::messages::report::{News, Rare, Report};
use crate::protocol::messages::worker::{FromWorker, Register, ToWorker};
use crate::protocol::messages::{client, compute};
use crate::protocol::wire::Wire;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

mod measured;
mod prepare;

const SOON: Duration = Duration::from_secs(20);

type WorkerEnd = Connection<FromWorker, ToWorker>;
type ClientEnd = Connection<FromClient, ToClient>;

struct House {
    scheduler: Scheduler,
    _dir: tempfile::TempDir,
}

fn options(dir: &tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Options {
    let mut config = Config::defaults();
    config.scheduler.host = Some("127.0.0.1".into());
    config.client.progress_interval.0 = Duration::from_millis(20);
    change(&mut config);
    let scheduler_file = Some(dir.path().join("scheduler.json"));
    Options {
        config: Arc::new(config),
        scheduler_file,
        cluster: None,
        job_id: None,
        dashboard: None,
        embedded: true,
    }
}

async fn house(change: impl FnOnce(&mut Config)) -> House {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(options(&dir, change)).await.unwrap();
    House { scheduler, _dir: dir }
}

impl House {
    async fn connect<S: Wire, R: Wire>(&self, role: Role) -> Connection<S, R> {
        let file = scheduler_file::read(&self.scheduler.file).unwrap();
        let tls = ClientTls::new(&file.role_credentials(role).unwrap(), &file.id).unwrap();
        let mut connection = connect(&file.address, Role::Scheduler, &tls, SOON).await.unwrap();
        connection.receiver.welcome();
        connection
    }

    async fn worker(&self, name: &str) -> (WorkerEnd, WorkerId) {
        self.worker_as(register(name)).await
    }

    async fn worker_as(&self, register: Register) -> (WorkerEnd, WorkerId) {
        let mut end: WorkerEnd = self.connect(Role::Worker).await;
        end.sender.send(FromWorker::Register(register)).await.unwrap();
        let ToWorker::Registered(registered) = heard(&mut end).await else { panic!("not registered") };
        assert_eq!(registered.cluster, self.scheduler.cluster);
        (end, registered.worker)
    }

    async fn client(&self) -> ClientEnd {
        self.client_as(Uuid::new_v4()).await
    }

    async fn client_as(&self, session: Uuid) -> ClientEnd {
        let mut end: ClientEnd = self.connect(Role::Client).await;
        end.sender.send(FromClient::Hello(hello(session))).await.unwrap();
        let ToClient::Welcome(welcome) = heard(&mut end).await else { panic!("not welcome") };
        assert_eq!((welcome.protocol, welcome.epoch), (PROTOCOL, 1));
        end
    }
}

fn register(name: &str) -> Register {
    Register {
        protocol: PROTOCOL,
        version: "1".into(),
        incarnation: Uuid::new_v4(),
        name: name.into(),
        host: format!("host-of-{name}"),
        pid: 7,
        address: "tls://127.0.0.1:9".into(),
        slots: 2 * SLOT,
        resources: Default::default(),
        memory_limit: Some(1 << 30),
        memory_target: None,
        memory_thresholds: [None; 4],
        job_id: None,
        pool: None,
        preemptible: false,
        leaves_in_ms: None,
        predecessor: None,
        holds: Vec::new(),
    }
}

fn hello(session: Uuid) -> Hello {
    Hello {
        protocol_min: 0,
        protocol_max: PROTOCOL + 3,
        version: "1".into(),
        session,
        host: "laptop".into(),
        pid: 1,
        looks_only: false,
    }
}

async fn next<S: Wire, R: Wire>(end: &mut Connection<S, R>) -> crate::base::error::Result<Option<R>> {
    tokio::time::timeout(SOON, end.receiver.recv()).await.expect("nothing came")
}

async fn heard<S: Wire, R: Wire>(end: &mut Connection<S, R>) -> R {
    next(end).await.unwrap().expect("the connection has ended")
}

/// The next message that `wanted` makes something of; others are passed over.
async fn until<S: Wire, R: Wire, T>(end: &mut Connection<S, R>, wanted: impl Fn(R) -> Option<T>) -> T {
    loop {
        if let Some(found) = wanted(heard(end).await) {
            return found;
        }
    }
}

async fn run_done(end: &mut ClientEnd) -> Summary {
    let done = |m| if let ToClient::RunDone(done) = m { Some(done.summary) } else { None };
    until(end, done).await
}

async fn ask(end: &mut ClientEnd, question: Question) -> Result<serde_json::Value, (String, String)> {
    end.sender.send(FromClient::Ask(Ask { id: 5, question })).await.unwrap();
    let answer = |m| if let ToClient::Answer(answer) = m { Some(answer) } else { None };
    let answer = until(end, answer).await;
    assert_eq!(answer.id, 5);
    answer.result.map(|text| serde_json::from_str(&text).unwrap())
}

fn family(name: &str, items: Items, total: u32, edges: Vec<(Pattern, u32, &str)>) -> Family {
    let input = |name: &str| Input { producer: name.into(), materialize: false, file_name: None };
    let spec = TaskSpec {
        name: name.into(),
        action: Action::Argv(vec!["true".into()]),
        inputs: edges.iter().map(|(_, _, name)| input(name)).collect(),
        outputs: Vec::new(),
        stdin: Stdin::Auto,
        env: Default::default(),
        setup: None,
        cwd: None,
        base_dir: "/".into(),
        umask: 0o022,
        ok_exit: vec![0],
        max_output: None,
        time_limit_ms: None,
        memory: Vec::new(),
        nthreads: 1,
        shell: Vec::new(),
        nodes: None,
        gpus: 0,
        params: Default::default(),
        kept: None,
        checkpoint: None,
    };
    let edge = |(pattern, producer, _)| Edge { producer: FamilyIx(producer), pattern, data: true };
    let layer =
        Layer { size: Size::Fixed(total), edges: edges.into_iter().map(edge).collect(), ..Layer::default() };
    Family { layer, spec, items }
}

/// Two listed elements and one task that takes both; its result is the client's.
fn graph() -> Graph {
    let values = Items::Values(vec!["x".into(), "y".into()]);
    Graph {
        name: "three".into(),
        families: vec![
            family("day", values, 2, Vec::new()),
            family("sum", Items::Single, 1, vec![(Pattern::All, 0, "day")]),
        ],
        outputs: vec![GraphOutput {
            family: FamilyIx(1),
            part: None,
            path: "out.txt".into(),
            by: Some(By::Client),
            skip_empty: false,
        }],
        ..Graph::default()
    }
}

fn submit(run: Uuid) -> Submit {
    let graph = Arc::new(Packed::new(graph()).unwrap());
    Submit { run, graph, detached: false, max_fails: None, wait_workers: 0, max_processing: None }
}

async fn submitted(end: &mut ClientEnd, submit: Submit) -> Accepted {
    end.sender.send(FromClient::Submit(submit)).await.unwrap();
    until(end, |m| match m {
        ToClient::Accepted(accepted) => Some(accepted),
        ToClient::Rejected(rejected) => panic!("rejected: {}", rejected.reason),
        _ => None,
    })
    .await
}

/// Tasks that come next.
async fn tasks(end: &mut WorkerEnd) -> compute::Tasks {
    let compute = |m| if let ToWorker::Compute(compute) = m { Some(compute) } else { None };
    until(end, compute).await.unpack().unwrap()
}

async fn report(end: &WorkerEnd, news: News) {
    end.sender.send(FromWorker::Report(Report::pack(1, news))).await.unwrap();
}

async fn finish(end: &WorkerEnd, tasks: &[(TaskRef, Attempt)], nbytes: u64) {
    let finished = tasks.iter().map(|(task, attempt)| (*task, *attempt, nbytes, 1_000_000)).collect();
    report(end, News { finished, ..News::default() }).await;
}

fn names(tasks: &compute::Tasks) -> Vec<(TaskRef, Attempt)> {
    tasks.tasks.iter().map(|t| (t.task, t.attempt)).collect()
}

#[tokio::test]
async fn a_graph_of_three_tasks() {
    let house = house(|_| {}).await;
    let (mut worker, id) = house.worker("w1").await;
    let mut client = house.client().await;
    let run = Uuid::new_v4();
    let accepted = submitted(&mut client, submit(run)).await;
    assert_eq!((accepted.run, accepted.tasks), (run, 3));

    let ToWorker::Families(families) = heard(&mut worker).await else { panic!("no families first") };
    assert_eq!((families.run, families.uuid), (accepted.id, run));
    assert_eq!(families.families.len(), 1);
    assert_eq!(families.families[0].items, Items::Index);
    let days = tasks(&mut worker).await;
    assert_eq!(days.items, [(0, Item::Text("x".into())), (1, Item::Text("y".into()))]);
    report(&worker, News { started: names(&days), ..News::default() }).await;
    finish(&worker, &names(&days), 10).await;
    let ToWorker::Families(families) = heard(&mut worker).await else { panic!("no families first") };
    assert_eq!((families.families[0].family, &families.families[0].items), (FamilyIx(1), &Items::Single));
    let sum = tasks(&mut worker).await;
    assert_eq!(sum.inputs.iter().map(|i| i.nbytes).collect::<Vec<_>>(), [10, 10]);
    assert_eq!(sum.holders, [id, id]);
    report(&worker, News { replicas: vec![days.tasks[0].task], ..News::default() }).await;
    finish(&worker, &names(&sum), 3).await;

    let outputs = |m| if let ToClient::Outputs(outputs) = m { Some(outputs) } else { None };
    let outputs = until(&mut client, outputs).await;
    let output = &outputs.outputs[0];
    assert_eq!((output.key.as_str(), output.nbytes, output.index), ("sum", 3, 0));
    assert_eq!(output.holders, [id]);
    assert_eq!(outputs.peers, [(id, "tls://127.0.0.1:9".into())]);
    let explained = ask(&mut client, Question::Explain { key: "day[1]".into(), run: None }).await.unwrap();
    assert_eq!((&explained["state"], &explained["key"]), (&"released".into(), &"day[1]".into()));
    let located = ask(&mut client, Question::Locate { key: "sum".into(), run: Some(run) }).await.unwrap();
    assert_eq!(located["output"]["nbytes"], 3);
    let waited = ask(&mut client, Question::WaitRun { run: Some(run), timeout_ms: 0 }).await.unwrap();
    assert_eq!(waited["outputs-to-take"], 1);

    let taken = FromClient::OutputsTaken(client::Tasks { tasks: vec![output.task] });
    client.sender.send(taken).await.unwrap();
    let summary = run_done(&mut client).await;
    assert_eq!((summary.done, summary.failed, summary.bytes_made, summary.bytes_moved), (3, 0, 23, 10));
    until(&mut worker, |m| matches!(m, ToWorker::ForgetRun(_)).then_some(())).await;
    let story = ask(&mut client, Question::Story { key: "sum".into(), run: None }).await.unwrap();
    let states: Vec<&str> = story.as_array().unwrap().iter().map(|r| r["to"].as_str().unwrap()).collect();
    assert_eq!(states, ["queued", "processing", "memory", "released"]);
    assert_eq!(story[1]["worker"], "w1");
    // The same graph sent twice is the same run, and who watches it again is told again.
    assert_eq!(submitted(&mut client, submit(run)).await.id, accepted.id);
    let watch = FromClient::Watch(RunNamed { run, reason: String::new() });
    client.sender.send(watch).await.unwrap();
    assert_eq!(run_done(&mut client).await, summary);
}

#[tokio::test]
async fn failures_reach_the_client_with_their_keys() {
    use crate::base::failure::{Failure, FailureKind};
    let house = house(|_| {}).await;
    let (mut worker, _) = house.worker("w1").await;
    let mut client = house.client().await;
    submitted(&mut client, submit(Uuid::new_v4())).await;
    let days = names(&tasks(&mut worker).await);
    let failed = vec![(days[1].0, days[1].1, Failure::of(FailureKind::Exit(3)))];
    report(&worker, News { rare: Rare { failed, ..Rare::default() }, ..News::default() }).await;
    finish(&worker, &days[..1], 1).await;
    let summary = run_done(&mut client).await;
    assert_eq!((summary.done, summary.failed, summary.skipped), (1, 1, 1));
    assert_eq!((summary.failures[0].key.as_str(), summary.failures[0].attempts), ("day[1]", 1));
    assert_eq!(summary.failures[0].host, "host-of-w1");
    let why = ask(&mut client, Question::Explain { key: "sum".into(), run: None }).await.unwrap();
    assert_eq!((&why["state"], &why["blame"]), (&"erred".into(), &"day[1]".into()));
    let unknown = ask(&mut client, Question::Explain { key: "dya[1]".into(), run: None }).await.unwrap_err();
    assert_eq!(unknown.0, "not-found");
    assert!(unknown.1.contains("did you mean `day`"), "{unknown:?}");
}

#[tokio::test]
async fn other_protocols_are_refused_by_name() {
    let house = house(|_| {}).await;
    let mut worker: WorkerEnd = house.connect(Role::Worker).await;
    let other = Register { protocol: PROTOCOL + 1, ..register("w") };
    worker.sender.send(FromWorker::Register(other)).await.unwrap();
    let ToWorker::Refused(reason) = heard(&mut worker).await else { panic!("not refused") };
    for said in [format!("protocol {},", PROTOCOL + 1), format!("protocol {PROTOCOL};")] {
        assert!(reason.reason.contains(&said), "{reason:?}");
    }
    assert!(matches!(next(&mut worker).await, Ok(None) | Err(_)));
    let mut client: ClientEnd = house.connect(Role::Client).await;
    let other = Hello { protocol_min: PROTOCOL + 1, ..hello(Uuid::new_v4()) };
    client.sender.send(FromClient::Hello(other)).await.unwrap();
    assert!(matches!(heard(&mut client).await, ToClient::Refused(_)));
}

#[tokio::test]
async fn garbage_drops_only_its_own_connection() {
    let house = house(|_| {}).await;
    let (mut good, _) = house.worker("good").await;
    let mut client = house.client().await;
    // Columns that do not fit, from a worker that was let in.
    let (mut bad, _) = house.worker("bad").await;
    let mut broken = Report::pack(1, News::default());
    crate::protocol::wire::Payload::set_body(&mut broken, bytes::Bytes::from_static(b"garbage")).unwrap();
    bad.sender.send(FromWorker::Report(broken)).await.unwrap();
    while let Ok(Some(_)) = next(&mut bad).await {}
    // Another direction's messages: a worker that speaks as a client.
    let mut muddled: Connection<FromClient, ToWorker> = house.connect(Role::Worker).await;
    muddled.sender.send(FromClient::Ping(Empty {})).await.unwrap();
    while let Ok(Some(_)) = next(&mut muddled).await {}
    // Claims about tasks, runs and workers that do not exist, and a size that cannot be.
    let wild = TaskRef { run: crate::base::ids::RunId(u32::MAX), index: u32::MAX };
    let attempt = Attempt { epoch: 9, n: u32::MAX };
    let nobody = WorkerId(u32::MAX);
    let rare = Rare {
        missing: vec![(wild, attempt, vec![(wild, nobody)])],
        returned: vec![(wild, attempt)],
        kept: vec![(wild, attempt)],
        uncopied: vec![(wild, nobody)],
        ..Rare::default()
    };
    let news = News {
        started: vec![(wild, attempt)],
        finished: vec![(wild, attempt, BYTES_MAX, 0)],
        replicas: vec![wild],
        rare,
    };
    let (mut liar, _) = house.worker("liar").await;
    let beyond = News { finished: vec![(wild, attempt, BYTES_MAX + 1, 0)], ..News::default() };
    report(&liar, beyond).await;
    while let Ok(Some(_)) = next(&mut liar).await {}
    report(&good, news).await;
    client.sender.send(FromClient::OutputsTaken(client::Tasks { tasks: vec![wild] })).await.unwrap();
    let missing = OutputMissing { task: wild, holder: nobody };
    client.sender.send(FromClient::OutputMissing(missing)).await.unwrap();
    // All of it has left no trace.
    submitted(&mut client, submit(Uuid::new_v4())).await;
    let days = names(&tasks(&mut good).await);
    finish(&good, &days, BYTES_MAX).await;
    let sum = names(&tasks(&mut good).await);
    finish(&good, &sum, BYTES_MAX).await;
    let outputs = |m| if let ToClient::Outputs(outputs) = m { Some(outputs) } else { None };
    assert_eq!(until(&mut client, outputs).await.outputs[0].nbytes, BYTES_MAX);
    let status = ask(&mut client, Question::Status).await.unwrap();
    assert_eq!(status["workers"].as_array().unwrap().len(), 1);
    assert_eq!(status["workers"][0]["name"], "good");
    assert_eq!(status["tasks"]["memory"], 1);
}

#[tokio::test]
async fn graphs_that_cannot_run_are_rejected() {
    let house = house(|_| {}).await;
    let mut client = house.client().await;
    let bad: [fn(&mut Graph); 3] = [
        |g| g.families[0].layer.nodes = 2,
        |g| g.families[1].layer.edges[0].producer = FamilyIx(7),
        |g| _ = g.families[0].layer.resources.insert("gpus".into(), u64::MAX),
    ];
    for spoil in bad {
        let mut graph = graph();
        spoil(&mut graph);
        let graph = Arc::new(Packed::new(graph).unwrap());
        let submit = Submit { graph, ..submit(Uuid::new_v4()) };
        client.sender.send(FromClient::Submit(submit)).await.unwrap();
        let ToClient::Rejected(rejected) = heard(&mut client).await else { panic!("not rejected") };
        assert!(!rejected.reason.is_empty());
    }
    let none = FromClient::Watch(RunNamed { run: Uuid::new_v4(), reason: String::new() });
    client.sender.send(none).await.unwrap();
    assert!(matches!(heard(&mut client).await, ToClient::Rejected(_)));
}

#[tokio::test]
async fn lost_work_goes_to_others_and_predecessors_are_lost_at_once() {
    let house = house(|_| {}).await;
    let incarnation = Uuid::new_v4();
    let (mut first, old) = house.worker_as(Register { incarnation, ..register("w1") }).await;
    let mut client = house.client().await;
    submitted(&mut client, submit(Uuid::new_v4())).await;
    let days = names(&tasks(&mut first).await);
    finish(&first, &days, 5).await;
    tasks(&mut first).await;
    // Its nanny has started it anew before the old connection was noticed to be dead.
    let next_life = Register { predecessor: Some((incarnation, "killed".into())), ..register("w1") };
    let (mut second, new) = house.worker_as(next_life).await;
    assert_ne!(old, new);
    let again = tasks(&mut second).await;
    assert_eq!(again.tasks.iter().map(|t| t.attempt.n).collect::<Vec<_>>(), [2, 2], "both inputs are lost");
    while let Ok(Some(_)) = next(&mut first).await {}
    // Another process with the same name takes it over, and the one before is told so.
    let (mut third, _) = house.worker("w1").await;
    let refused = |m| if let ToWorker::Refused(reason) = m { Some(reason.reason) } else { None };
    assert!(until(&mut second, refused).await.contains("w1"));
    let days = names(&tasks(&mut third).await);
    finish(&third, &days, 5).await;
    // An address that a worker needs comes before the message that needs it.
    let (mut fourth, _) = house.worker("w2").await;
    third.sender.send(FromWorker::Retiring(Reason { reason: "walltime".into() })).await.unwrap();
    let mut known = Vec::new();
    loop {
        match heard(&mut fourth).await {
            ToWorker::Peers(peers) => known.extend(peers.peers.into_iter().map(|p| p.0)),
            ToWorker::Replicate(replicate) => {
                assert!(known.contains(&replicate.from));
                break;
            }
            ToWorker::Compute(compute) => {
                assert!(compute.unpack().unwrap().holders.iter().all(|h| known.contains(h)));
                break;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn waiting_for_workers() {
    let house = house(|_| {}).await;
    let mut client = house.client().await;
    let mut early = submit(Uuid::new_v4());
    early.wait_workers = 2;
    submitted(&mut client, early).await;
    let (mut first, _) = house.worker("w1").await;
    let timeout = ask(&mut client, Question::WaitWorkers { workers: 2, timeout_ms: 30 }).await.unwrap_err();
    assert_eq!(timeout, ("timeout".into(), "1 of 2 workers are connected".into()));
    let status = ask(&mut client, Question::Status).await.unwrap();
    assert_eq!(status["runs"][0]["state"], "waiting-for-workers");
    let (_second, _) = house.worker("w2").await;
    let there = ask(&mut client, Question::WaitWorkers { workers: 2, timeout_ms: 0 }).await.unwrap();
    assert_eq!(there["workers"], 2);
    tasks(&mut first).await;
    let stopped = ask(&mut client, Question::StopWorkers { names: vec!["w1".into()] }).await.unwrap();
    assert_eq!(stopped["stopping"][0], "w1");
    until(&mut first, |m| matches!(m, ToWorker::Retire(_)).then_some(())).await;
    let nobody = ask(&mut client, Question::StopWorkers { names: vec!["w9".into()] }).await.unwrap_err();
    assert_eq!(nobody.0, "not-found");
}

#[tokio::test]
async fn runs_of_clients_that_stay_away_are_cancelled_unless_detached() {
    let house = house(|c| c.scheduler.session_lease.0 = Duration::from_millis(300)).await;
    let (mut worker, _) = house.worker("w1").await;
    let session = Uuid::new_v4();
    let mut client = house.client_as(session).await;
    let (run, detached) = (Uuid::new_v4(), Uuid::new_v4());
    submitted(&mut client, submit(run)).await;
    submitted(&mut client, Submit { detached: true, ..submit(detached) }).await;
    drop(client);
    // Back within the lease: the run is still its own.
    let mut client = house.client_as(session).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let status = ask(&mut client, Question::Status).await.unwrap();
    assert_eq!(status["tasks"]["cancelled"], 0, "{status}");
    drop(client);
    until(&mut worker, |m| matches!(m, ToWorker::Cancel(_)).then_some(())).await;
    let mut other = house.client().await;
    let status = ask(&mut other, Question::Status).await.unwrap();
    assert_eq!(status["runs"][0]["state"], "cancelled", "{status}");
    assert_eq!(status["runs"][1]["state"], "running", "{status}");
    let named = |run| RunNamed { run, reason: "enough".into() };
    other.sender.send(FromClient::Cancel(named(detached))).await.unwrap();
    let over = ask(&mut other, Question::WaitRun { run: None, timeout_ms: 10_000 }).await.unwrap();
    assert_eq!(over["runs"][1]["summary"]["cancel-reason"], "enough");
    other.sender.send(FromClient::Forget(named(detached))).await.unwrap();
    let gone = ask(&mut other, Question::WaitRun { run: Some(detached), timeout_ms: 0 }).await.unwrap_err();
    assert_eq!(gone.0, "not-found");
}

#[tokio::test]
async fn the_end_is_told_to_all_and_leaves_nothing() {
    let mut house = house(|_| {}).await;
    let (mut worker, _) = house.worker("w1").await;
    let mut watcher = house.client().await;
    let mut client = house.client().await;
    assert_eq!(ask(&mut client, Question::Stop).await.unwrap()["stopping"], true);
    assert!(matches!(heard(&mut client).await, ToClient::Stopping(_)));
    assert!(matches!(heard(&mut watcher).await, ToClient::Stopping(_)));
    until(&mut worker, |m| matches!(m, ToWorker::Stop(_)).then_some(())).await;
    worker.sender.send(FromWorker::Goodbye(Reason { reason: "stopped".into() })).await.unwrap();
    tokio::time::timeout(SOON, house.scheduler.wait()).await.unwrap().unwrap();
    assert!(!house.scheduler.file.exists());
    house.scheduler.stop();
    house.scheduler.wait().await.unwrap();
}

#[tokio::test]
async fn idle_schedulers_end_and_living_ones_keep_their_file() {
    let mut first = house(|c| c.scheduler.idle_timeout = Some(crate::base::units::Span(SOON / 100))).await;
    let client = first.client().await;
    let second = Scheduler::start(options(&first._dir, |_| {})).await.unwrap_err();
    assert_eq!(second.kind, crate::base::error::Kind::Refused, "{second}");
    assert!(first.scheduler.file.exists());
    drop(client);
    tokio::time::timeout(SOON, first.scheduler.wait()).await.unwrap().unwrap();
    assert!(!first.scheduler.file.exists());
}
