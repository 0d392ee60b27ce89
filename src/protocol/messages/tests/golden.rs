//! Golden bytes: one message of every kind, and the bytes it has had since this protocol number came into
//! being. A change here needs a new `PROTOCOL`. Owns the samples; `golden.txt` has the bytes.

use crate::base::failure::{Failure, FailureKind, Raised};
use crate::base::ids::{Attempt, FamilyIx, RunId, TaskRef, WorkerId};
use crate::graph::items::Items;
use crate::graph::layer::{Layer, Shape};
use crate::graph::spec::{Action, Stdin, TaskSpec};
use crate::graph::{By, Family, Graph, GraphOutput, Packed};
use crate::protocol::framing::{Decoder, FRAME_BYTES_MAX, FrameError, encode_whole};
use crate::protocol::messages::calls::*;
use crate::protocol::messages::client::*;
use crate::protocol::messages::compute::Compute;
use crate::protocol::messages::look::{
    LastWords, Look, Looked, PrintedPart, Said, Span, SpanKind, Spans, View, Wanted,
};
use crate::protocol::messages::peer::{
    Begin, FromPeer, Get, PartHeader, PeerHello, PeerWelcome, Piece, Put, Stored, ToPeer,
};
use crate::protocol::messages::report::{News, Rare, Report};
use crate::protocol::messages::share::{Kind, Outcome, Share, Shared, Verb};
use crate::protocol::messages::worker::{
    Attempts, Families, FamilyInfo, ForgetRun, FromWorker, Heartbeat, Peers, Register, Registered, Replicate,
    Save, ToWorker,
};
use crate::protocol::wire::Wire;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use uuid::Uuid;

const GOLDEN: &str = include_str!("golden.txt");

fn uuid() -> Uuid {
    Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)
}

fn task() -> TaskRef {
    TaskRef { run: RunId(3), index: 70_000 }
}

fn attempt() -> Attempt {
    Attempt { epoch: 1, n: 2 }
}

fn reason() -> Reason {
    Reason { reason: "because".into() }
}

fn prepare() -> Prepare {
    Prepare { environment: b"e".to_vec(), modules: vec!["numpy".into()] }
}

fn run_named() -> RunNamed {
    RunNamed { run: uuid(), reason: "enough".into() }
}

fn failure() -> Failure {
    Failure { command: "false".into(), stderr_tail: "oh\n".into(), ..Failure::of(FailureKind::Exit(1)) }
}

fn spec() -> TaskSpec {
    TaskSpec {
        name: "day".into(),
        action: Action::Shell("wc {item}".into()),
        inputs: Vec::new(),
        outputs: Vec::new(),
        stdin: Stdin::Auto,
        env: [("A".to_string(), "b".to_string())].into(),
        setup: None,
        cwd: None,
        base_dir: "/data".into(),
        umask: 0o022,
        ok_exit: vec![0],
        max_output: None,
        time_limit_ms: Some(1000),
        memory: vec![1 << 20],
        nthreads: 1,
        shell: Vec::new(),
        nodes: None,
        gpus: 0,
        params: Default::default(),
        kept: None,
        checkpoint: None,
    }
}

fn graph() -> Graph {
    let output = GraphOutput {
        family: FamilyIx(0),
        part: None,
        path: "out".into(),
        by: Some(By::Worker),
        skip_empty: true,
    };
    Graph {
        name: "g".into(),
        families: vec![Family { layer: Layer::default(), spec: spec(), items: Items::Single }],
        outputs: vec![output],
        ..Graph::default()
    }
}

fn from_client() -> Vec<FromClient> {
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 2,
        version: "0.1.0".into(),
        session: uuid(),
        host: "laptop".into(),
        pid: 5,
        looks_only: true,
    };
    let submit = Submit {
        run: uuid(),
        graph: Arc::new(Packed::new(graph()).unwrap()),
        detached: true,
        max_fails: Some(3),
        wait_workers: 2,
        max_processing: Some(4),
    };
    let question = Question::Explain { key: "day[3]".into(), run: Some(uuid()) };
    vec![
        FromClient::Hello(hello),
        FromClient::Submit(submit),
        FromClient::Watch(run_named()),
        FromClient::Cancel(run_named()),
        FromClient::Forget(run_named()),
        FromClient::OutputsTaken(Tasks { tasks: vec![task()] }),
        FromClient::OutputMissing(OutputMissing { task: task(), holder: WorkerId(4) }),
        FromClient::Ask(Ask { id: 9, question }),
        FromClient::Ask(Ask { id: 10, question: Question::Status }),
        FromClient::Ask(Ask {
            id: 12,
            question: Question::View(View::Spans { after: 7, limit: 9, run: None }),
        }),
        FromClient::Ask(Ask { id: 11, question: Question::Demand { min_work_ms: 30_000 } }),
        FromClient::Ping(Empty {}),
        FromClient::Calls(calls()),
        FromClient::Release(run_tasks()),
        FromClient::Want(run_tasks()),
        FromClient::CancelCalls(run_tasks()),
        FromClient::RetryCalls(run_tasks()),
        FromClient::Leave(Empty {}),
        FromClient::Prepare(prepare()),
        share(Kind::Lock, Verb::Acquire),
        share(Kind::Lock, Verb::Release),
        share(Kind::Semaphore, Verb::Count),
        share(Kind::Event, Verb::Set),
        share(Kind::Event, Verb::Clear),
        share(Kind::Event, Verb::Wait),
        share(Kind::Variable, Verb::Get),
        share(Kind::Queue, Verb::Put),
        share(Kind::Dataset, Verb::Delete),
        share(Kind::Dataset, Verb::List),
        share(Kind::Session, Verb::Bind),
        share(Kind::Session, Verb::Withdraw),
        share(Kind::Session, Verb::Heard),
    ]
}

fn to_client() -> Vec<ToClient> {
    let welcome = Welcome { protocol: 1, version: "0.1.0".into(), cluster: "ab12".into(), epoch: 1 };
    let output = OutputAt {
        task: task(),
        key: "day[3]".into(),
        family: FamilyIx(0),
        element: 3,
        index: 3,
        nbytes: 1 << 33,
        holders: vec![WorkerId(4)],
    };
    let outputs = Outputs {
        run: uuid(),
        outputs: vec![output],
        peers: vec![(WorkerId(4), "tls://127.0.0.1:9".into())],
    };
    let failed = FailedTask { key: "day[3]".into(), host: "node7".into(), attempts: 2, failure: failure() };
    let failed_call = FailedCall {
        task: 7,
        cancelled: false,
        key: "a-b".into(),
        host: "node7".into(),
        attempts: 1,
        failure: raised(),
    };
    let summary = Summary { done: 5, task_seconds: 1.5, failures: vec![failed], ..Summary::default() };
    vec![
        ToClient::Welcome(welcome),
        ToClient::Refused(reason()),
        ToClient::Accepted(Accepted { run: uuid(), id: RunId(3), tasks: 1_000_000, first: 2 }),
        ToClient::Rejected(Rejected { run: uuid(), reason: "no".into() }),
        ToClient::Progress(Progress { run: uuid(), total: 7, slots: 20_000, ..Progress::default() }),
        ToClient::Outputs(outputs),
        ToClient::RunDone(RunDone { run: uuid(), summary }),
        ToClient::Answer(Answer { id: 9, result: Ok("{}".into()) }),
        ToClient::Answer(Answer { id: 9, result: Err(("not-found".into(), "no such key".into())) }),
        ToClient::Stopping(reason()),
        ToClient::Pong(Empty {}),
        ToClient::CallsDone(CallsDone::pack(
            uuid(),
            vec![(WorkerId(4), "tls://127.0.0.1:9".into())],
            &[(7, 100, WorkerId(4))],
        )),
        ToClient::CallsFailed(CallsFailed { run: uuid(), failed: vec![failed_call] }),
        ToClient::CallsLost(run_tasks()),
        shared(Outcome::Done, b""),
        shared(Outcome::TimedOut, b""),
        shared(Outcome::Missing, b""),
        shared(Outcome::Refused("no".into()), b""),
        shared(Outcome::Number(3), b""),
        shared(Outcome::Value(vec![(uuid(), 7)]), b"pickle"),
        shared(Outcome::Names(vec!["a".into()]), b""),
    ]
}

fn run_tasks() -> RunTasks {
    RunTasks { later: true, reason: "enough".into(), ..RunTasks::new(uuid(), &[7, 8]) }
}

fn code() -> Code {
    Code { id: b"id".to_vec(), bytes: b"code".to_vec() }
}

fn call_options() -> CallOptions {
    CallOptions {
        priority: -1,
        retries: 2,
        slots: 5000,
        resources: [("gpus".to_string(), 10_000)].into(),
        workers: vec!["n1".into()],
        loose: true,
        memory: Some(1 << 33),
        output_size: None,
        time_limit_ms: Some(500),
    }
}

fn share(kind: Kind, verb: Verb) -> FromClient {
    FromClient::Share(Share {
        id: 2,
        heard: vec![1],
        kind,
        verb,
        name: "x".into(),
        owner: "o".into(),
        limit: Some(5),
        timeout_ms: Some(1000),
        tasks: vec![(uuid(), 7)],
        body: Bytes::from_static(b"pickle"),
    })
}

fn shared(outcome: Outcome, body: &'static [u8]) -> ToClient {
    ToClient::Shared(Shared { id: 2, outcome, body: Bytes::from_static(body) })
}

fn calls() -> Calls {
    let columns = CallColumns {
        option: vec![0],
        flags: vec![WANTED],
        deps_end: vec![1],
        deps: vec![EXTERNAL],
        keys_end: vec![3],
        keys: b"a-b".to_vec(),
        batch_end: vec![1],
        bytes_end: vec![6],
        bytes: b"pickle".to_vec(),
    };
    Calls {
        run: uuid(),
        piece: 0,
        last: true,
        name: "inc".into(),
        map: false,
        environment: b"e".to_vec(),
        functions: vec![code()],
        options: vec![call_options()],
        externals: vec![(uuid(), 7)],
        body: columns.pack(),
    }
}

fn raised() -> Failure {
    let raised =
        Raised { summary: "ValueError: no".into(), traceback: "Traceback".into(), payload: b"x".to_vec() };
    Failure::of(FailureKind::Raised(Box::new(raised)))
}

fn from_worker() -> Vec<FromWorker> {
    let register = Register {
        protocol: 1,
        version: "0.1.0".into(),
        incarnation: uuid(),
        name: "w1".into(),
        host: "node7".into(),
        pid: 5,
        address: "tls://127.0.0.1:9".into(),
        slots: 20_000,
        resources: [("gpus".to_string(), 40_000)].into(),
        memory_limit: Some(1 << 40),
        memory_target: None,
        memory_thresholds: [Some(6), Some(7), Some(8), None],
        job_id: Some("17".into()),
        pool: Some("spot".into()),
        preemptible: true,
        leaves_in_ms: None,
        predecessor: Some((uuid(), "killed".into())),
        holds: vec![(uuid(), FamilyIx(0), 3, 100)],
    };
    let rare = Rare {
        failed: vec![(task(), attempt(), failure())],
        missing: vec![(task(), attempt(), vec![(task(), WorkerId(4))])],
        returned: vec![(task(), attempt())],
        kept: vec![(task(), attempt())],
        uncopied: vec![(task(), WorkerId(4))],
        stored: vec![(task(), 100)],
        pinned: vec![task()],
        away: vec![(task(), attempt(), true)],
        paused: Some(true),
    };
    let news = News {
        started: vec![(task(), attempt())],
        finished: vec![(task(), attempt(), 100, 2000)],
        replicas: vec![task()],
        rare,
    };
    let (kind, task_of) = (SpanKind::Fetch, Some(task()));
    let span = Span { kind, lane: 1, task: task_of, count: 2, start_ns: 3, ns: 4, bytes: 5, peak: 6 };
    let heartbeat = Heartbeat { executing: 2, managed: 1 << 33, cpu_seconds: 1.5, ..Heartbeat::default() };
    vec![
        FromWorker::Register(register),
        FromWorker::Report(Report::pack(1, news)),
        FromWorker::Heartbeat(heartbeat),
        FromWorker::Retiring(reason()),
        FromWorker::Goodbye(reason()),
        FromWorker::Spans(Spans::pack(1, 6, &[span])),
        FromWorker::Looked(Looked { id: 8, result: Err("it is gone".into()) }),
        FromWorker::LastWords(LastWords {
            incarnation: uuid(),
            log: "worker ends".into(),
            tasks: vec![Said {
                task: task(),
                attempt: 2,
                parts: vec![PrintedPart { name: "stderr".into(), text: "err".into(), left_out: 3 }],
            }],
            profile: "{}".into(),
        }),
    ]
}

fn to_worker() -> Vec<ToWorker> {
    use crate::protocol::messages::worker::Tasks;
    let registered = Registered { worker: WorkerId(4), epoch: 1, cluster: "ab12".into(), heartbeat_ms: 5000 };
    let family = FamilyInfo {
        family: FamilyIx(0),
        spec: spec(),
        items: Items::Range { start: -1, step: 2 },
        shape: Some(Shape { total: 24, first_export: 0 }),
        fan_in: None,
        writes: vec![(None, "out".into(), true)],
    };
    let attempts = || Attempts { attempts: vec![(task(), attempt())] };
    vec![
        ToWorker::Registered(registered),
        ToWorker::Refused(reason()),
        ToWorker::Families(Families { run: RunId(3), uuid: uuid(), families: vec![family] }),
        ToWorker::Compute(Compute::pack(2, &super::batch())),
        ToWorker::Free(Tasks { tasks: vec![task()] }),
        ToWorker::Cancel(attempts()),
        ToWorker::Steal(attempts()),
        ToWorker::Replicate(Replicate { tasks: vec![(task(), 100)], from: WorkerId(4) }),
        ToWorker::Peers(Peers { peers: vec![(WorkerId(4), "tls://127.0.0.1:9".into())] }),
        ToWorker::Dismiss(Empty {}),
        ToWorker::ForgetRun(ForgetRun { run: RunId(3) }),
        ToWorker::Stop(reason()),
        ToWorker::Retire(reason()),
        ToWorker::Save(Save { tasks: vec![(task(), FamilyIx(3), 7, 1500)] }),
        ToWorker::Prepare(prepare()),
        ToWorker::CallRun(CallRun {
            run: RunId(3),
            uuid: uuid(),
            name: "inc".into(),
            environment: b"e".to_vec(),
            functions: vec![code()],
        }),
        ToWorker::CallBatch(CallBatch {
            run: RunId(3),
            first: 256,
            options: vec![call_options()],
            body: BatchColumns {
                option: vec![0],
                keys_end: vec![3],
                keys: b"a-b".to_vec(),
                bytes: b"pickle".to_vec(),
            }
            .pack(),
        }),
        ToWorker::Look(Look { id: 8, wanted: Wanted::Task { task: task(), bytes: 1 << 16 } }),
    ]
}

fn from_peer() -> Vec<FromPeer> {
    vec![
        FromPeer::Hello(PeerHello { protocol: 1, epoch: 1 }),
        FromPeer::Get(Get { id: 1, tasks: vec![task()] }),
        FromPeer::Put(Put { id: 1, task: task(), parts: vec![part()] }),
        FromPeer::Piece(Piece { body: Bytes::from_static(b"bytes") }),
    ]
}

fn part() -> PartHeader {
    PartHeader { name: String::new(), len: 5, in_place: None }
}

fn to_peer() -> Vec<ToPeer> {
    let parts = vec![
        part(),
        PartHeader { name: "h5".into(), len: 0, in_place: Some(("/data/x.h5".into(), 100, -1)) },
    ];
    vec![
        ToPeer::Welcome(PeerWelcome { name: "w1".into() }),
        ToPeer::Refused(reason()),
        ToPeer::Begin(Begin { id: 1, task: task(), parts: Some(parts) }),
        ToPeer::Begin(Begin { id: 1, task: task(), parts: None }),
        ToPeer::Piece(Piece { body: Bytes::from_static(b"bytes") }),
        ToPeer::Stored(Stored { id: 1, error: Some("full".into()) }),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> BytesMut {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Lines of `golden.txt` for one direction, after checks that every message of it has a sample and that
/// what is written can be read.
fn lines<M: Wire + Clone + PartialEq + std::fmt::Debug>(direction: &str, samples: Vec<M>) -> Vec<String> {
    for tag in 0..100 {
        let known = !matches!(
            M::decode(tag, &[], Bytes::new()),
            Err(FrameError::UnknownTag { .. } | FrameError::RetiredTag { .. })
        );
        let has_sample = samples.iter().any(|m| m.tag() == tag);
        assert_eq!(known, has_sample, "tag {tag} of {direction} has a message or a sample, but not both");
    }
    let line = |m: &M| {
        let bytes = encode_whole(m.clone()).unwrap();
        let mut buffer = BytesMut::from(&bytes[..]);
        let decoded: Option<M> = Decoder::new(FRAME_BYTES_MAX).next_message(&mut buffer).unwrap();
        assert_eq!(decoded.as_ref(), Some(m));
        assert!(buffer.is_empty());
        format!("{direction}.{} {}", m.name(), hex(&bytes))
    };
    samples.iter().map(line).collect()
}

#[test]
fn bytes_of_every_message_stay_as_they_are() {
    let all = [
        lines("FromClient", from_client()),
        lines("ToClient", to_client()),
        lines("FromWorker", from_worker()),
        lines("ToWorker", to_worker()),
        lines("FromPeer", from_peer()),
        lines("ToPeer", to_peer()),
    ]
    .concat();
    let golden: Vec<&str> = GOLDEN.lines().filter(|l| !l.starts_with('#')).collect();
    assert_eq!(
        golden,
        all,
        "bytes differ; if that is meant, raise PROTOCOL and write this:\n{}",
        all.join("\n")
    );
}

#[test]
fn shortened_and_lengthened_messages_are_refused() {
    let golden = GOLDEN.lines().find_map(|l| l.strip_prefix("ToClient.Welcome "));
    let whole = unhex(golden.unwrap());
    let decoder = Decoder::new(FRAME_BYTES_MAX);
    for n in 0..whole.len() {
        let mut cut = BytesMut::from(&whole[..n]);
        assert!(matches!(decoder.next_message::<ToClient>(&mut cut), Ok(None)), "{n}");
    }
    let mut other = whole.clone();
    assert!(decoder.next_message::<FromPeer>(&mut other).is_err());
}
