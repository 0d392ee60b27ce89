//! Runs of calls on whole workers, with real Python where it is there.

use super::*;
use crate::base::failure::FailureKind;
use crate::net::connection::connect;
use crate::protocol::PROTOCOL;
use crate::protocol::columns::ColumnWriter;
use crate::protocol::messages::calls::{CallBatch, CallOptions, CallRun};
use crate::protocol::messages::peer::{FromPeer, PeerHello, Piece, Put, ToPeer};
use crate::protocol::messages::worker::Tasks as TasksMessage;
use crate::worker::store::pool;
use std::path::Path;
use std::process::Command;

/// Names one task of each kind; the batch has these, in this order.
const BATCH: &str = r#"
import sys, cloudpickle
from hpcdag import _decode, _environment
from hpcdag._decode import CALL, SWAP, LIST, Input

def large():
    import numpy
    return numpy.arange(200_000, dtype="f8")

def total(array, n):
    return float(array.sum()) + n

def fail():
    print("printed before it failed")
    raise ValueError("no such luck")

def crash():
    import os, signal
    os.kill(os.getpid(), signal.SIGSEGV)

def processes():
    import os
    return [os.getpid(), os.getppid()]

def sleep(path):
    import time
    open(path, "w").close()
    time.sleep(600)

def stubborn(path):
    import time
    open(path, "w").close()
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass

DIR = sys.argv[1]
calls = [
    (CALL, large, (), None),
    (SWAP, total, (Input(0), 5), None),
    (CALL, fail, (), None),
    (CALL, crash, (), None),
    (CALL, processes, (), None),
    (CALL, sleep, (DIR + "/began",), None),
    (CALL, stubborn, (DIR + "/stubborn",), None),
    (CALL, sleep, (DIR + "/limited",), None),
]
if len(sys.argv) > 2:
    sys.stdout.buffer.write(_environment.packed())
else:
    sys.stdout.buffer.write(cloudpickle.dumps((LIST, calls)))
"#;

const LARGE: u32 = 0;
const TOTAL: u32 = 1;
const FAIL: u32 = 2;
const CRASH: u32 = 3;
const PROCESSES: u32 = 4;
const SLEEP: u32 = 5;
const STUBBORN: u32 = 6;
const LIMITED: u32 = 7;

/// An interpreter with what the tests need: the one that is named, else the tests' own environment.
fn interpreter() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join("target/python-env/bin/python");
    let named = std::env::var_os("HPCDAG_TEST_PYTHON").map(PathBuf::from);
    let found = named.or_else(|| own.exists().then_some(own));
    if found.is_none() {
        eprintln!(
            "SKIPPED: no Python for tests; scripts/test makes target/python-env, or set HPCDAG_TEST_PYTHON"
        );
    }
    found
}

/// What a program prints.
fn python(interpreter: &Path, code: &str, args: &[&str]) -> Vec<u8> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let mut command = Command::new(interpreter);
    command.args(["-c", code]).args(args).env("PYTHONPATH", package);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn options() -> CallOptions {
    CallOptions {
        priority: 0,
        retries: 0,
        slots: SLOT,
        resources: BTreeMap::new(),
        workers: vec![],
        loose: false,
        memory: None,
        output_size: None,
        time_limit_ms: None,
    }
}

impl Played {
    /// Tells a worker of the run and of its batch: task 10 is the first call.
    async fn teach(&self, session: &Session, interpreter: &Path) {
        let dir = self.dir.path().to_str().unwrap();
        let environment = python(interpreter, BATCH, &[dir, "environment"]);
        session.run(7, environment).await;
        session.batch(python(interpreter, BATCH, &[dir])).await;
    }

    fn began(&self, name: &str) -> impl Future<Output = ()> + use<> {
        let path = self.dir.path().join(name);
        async move {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// The value of a call, as JSON.
    async fn value(&self, session: &Session, interpreter: &Path, call: u32) -> serde_json::Value {
        let got = self.fetch(session, EPOCH, &[task(10 + call)]).await.unwrap().0;
        let bytes = got[0].1.as_ref().expect("it is here");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let code = "import sys, json, pickle; print(json.dumps(pickle.loads(bytes.fromhex(sys.argv[1]))))";
        serde_json::from_slice(&python(interpreter, code, &[&hex])).unwrap()
    }
}

impl Session {
    async fn run(&self, uuid: u128, environment: Vec<u8>) {
        let (uuid, name) = (RunUuid::from_u128(uuid), "test".into());
        let run = CallRun { run: RunId(1), uuid, name, environment, functions: vec![] };
        self.say(ToWorker::CallRun(run)).await;
    }

    async fn batch(&self, bytes: Vec<u8>) {
        let limited = CallOptions { time_limit_ms: Some(200), ..options() };
        let mut w = ColumnWriter::new();
        let option: Vec<u32> = (0..8).map(|call| u32::from(call == LIMITED)).collect();
        w.push(&option).push::<u32>(&[]).push::<u8>(&[]).push(&bytes);
        let options = vec![options(), limited];
        let batch = CallBatch { run: RunId(1), first: 10, options, body: w.finish() };
        self.say(ToWorker::CallBatch(batch)).await;
    }

    /// Hands over calls, with the numbers of their inputs.
    async fn call(&self, calls: &[(u32, &[u32])]) {
        let handed = |(call, inputs): &(u32, &[u32])| {
            Handed(10 + call, 0, 0, inputs.iter().map(|input| (*input, vec![])).collect(), None)
        };
        self.compute(calls.iter().map(handed).collect()).await;
    }

    /// Waits for the failure of a call.
    async fn failure(&mut self, call: u32) -> crate::base::failure::Failure {
        let news = soon(self.news(|news| !news.rare.failed.is_empty())).await;
        let (failed, _, failure) = news.rare.failed.into_iter().next().unwrap();
        assert_eq!(failed, task(10 + call));
        failure
    }

    async fn finished(&mut self, call: u32) {
        let ended = |news: &News| !news.finished.is_empty() || !news.rare.failed.is_empty();
        let news = soon(self.news(ended)).await;
        assert_eq!(news.finished.first().map(|f| f.0), Some(task(10 + call)), "{news:?}");
    }
}

fn is_alive(pid: &serde_json::Value) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn calls_run_fail_and_crash_and_leave_nothing_behind() {
    let Some(interpreter) = interpreter() else { return };
    let mut played = played().await;
    played.publish().await;
    let (mut worker, mut session) = played.worker("w", 1).await;
    played.teach(&session, &interpreter).await;
    session.call(&[(LARGE, &[])]).await;
    session.finished(LARGE).await;
    session.call(&[(TOTAL, &[10 + LARGE])]).await;
    session.finished(TOTAL).await;
    let sum = played.value(&session, &interpreter, TOTAL).await;
    assert_eq!(sum, serde_json::json!(199_999.0 * 100_000.0 + 5.0));

    session.call(&[(FAIL, &[])]).await;
    let failure = session.failure(FAIL).await;
    let FailureKind::Raised(raised) = &failure.kind else { panic!("{failure:?}") };
    assert_eq!(raised.summary, "ValueError: no such luck");
    assert!(raised.traceback.contains("in fail") && !raised.payload.is_empty(), "{}", raised.traceback);
    assert!(failure.stderr_tail.contains("printed before"), "{failure:?}");
    assert_eq!(failure.command, "test-12");

    session.call(&[(CRASH, &[])]).await;
    let failure = session.failure(CRASH).await;
    assert_eq!(failure.kind, FailureKind::Signal(libc::SIGSEGV));
    assert!(failure.stderr_tail.contains("in crash"), "{failure:?}");
    assert!(!failure.stderr_tail.contains("printed before"), "it is of this call: {failure:?}");

    session.call(&[(PROCESSES, &[])]).await;
    session.finished(PROCESSES).await;
    let pids = played.value(&session, &interpreter, PROCESSES).await;
    assert!(is_alive(&pids[0]) && is_alive(&pids[1]));
    worker.stop();
    assert_eq!(soon(worker.wait()).await.unwrap(), Ending::Stopped);
    let gone = async {
        while is_alive(&pids[0]) || is_alive(&pids[1]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(gone).await;
}

#[tokio::test]
async fn calls_that_are_cancelled_or_out_of_time_end() {
    let Some(interpreter) = interpreter() else { return };
    let mut played = played().await;
    played.config.worker.kill_grace = Span(Duration::from_millis(500));
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 1).await;
    played.teach(&session, &interpreter).await;
    session.call(&[(SLEEP, &[]), (STUBBORN, &[])]).await;
    soon(played.began("began")).await;
    soon(played.began("stubborn")).await;
    let attempts = vec![(task(10 + SLEEP), FIRST), (task(10 + STUBBORN), FIRST)];
    session.say(ToWorker::Cancel(Attempts { attempts })).await;
    // There is room for it only when one of these has ended.
    session.call(&[(LIMITED, &[])]).await;
    let failure = session.failure(LIMITED).await;
    assert_eq!(failure.kind, FailureKind::TimeLimit(200), "{failure:?}");
    session.call(&[(PROCESSES, &[])]).await;
    session.finished(PROCESSES).await;
}

/// Puts its process and the ids of all that its executor was sent and has not dropped in place of `large`.
const LOADED: &str = r#"
def large():
    import gc, os
    found = [one for one in gc.get_objects() if type(one).__name__ == "Loaded"]
    return [os.getpid(), [ident.hex() for one in found for _, ident in [*one._made, *one._bytes]]]

def unused():"#;

#[tokio::test]
async fn executors_forget_runs_that_are_over() {
    let Some(interpreter) = interpreter() else { return };
    let mut played = played().await;
    // For want of a zygote the interpreter imports nothing beforehand.
    played.config.worker.python.zygote = false;
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 1).await;
    let code = BATCH.replace("\ndef large():", LOADED);
    let dir = played.dir.path().to_str().unwrap().to_owned();
    let mut pids = Vec::new();
    for uuid in [7, 8] {
        session.run(uuid, python(&interpreter, &code, &[&dir, "environment"])).await;
        session.batch(python(&interpreter, &code, &[&dir])).await;
        session.call(&[(LARGE, &[])]).await;
        session.finished(LARGE).await;
        let value = played.value(&session, &interpreter, LARGE).await;
        assert_eq!(value[1], serde_json::json!([format!("{uuid:032x}0a000000")]));
        pids.push(value[0].clone());
        session.say(ToWorker::Free(TasksMessage { tasks: vec![task(10 + LARGE)] })).await;
        session.say(ToWorker::ForgetRun(ForgetRun { run: RunId(1) })).await;
    }
    assert_eq!(pids[0], pids[1], "it is kept warm");
}

#[tokio::test]
async fn another_version_of_python_is_named() {
    let Some(interpreter) = interpreter() else { return };
    let mut played = played().await;
    played.config.worker.python.executable = Some(interpreter.to_string_lossy().into_owned());
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 1).await;
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let environment = serde_json::json!({"python": "/nowhere", "version": "2.7", "path": [package]});
    session.run(7, rmp_serde::to_vec_named(&environment).unwrap()).await;
    session.batch(Vec::new()).await;
    session.call(&[(FAIL, &[])]).await;
    let failure = session.failure(FAIL).await;
    let FailureKind::Prepare(text) = &failure.kind else { panic!("{failure:?}") };
    assert!(text.contains("client has Python 2.7") && text.contains("worker.python.executable"), "{text}");
    session.say(ToWorker::ForgetRun(ForgetRun { run: RunId(1) })).await;
    session.call(&[(FAIL, &[])]).await;
    let failure = session.failure(FAIL).await;
    assert!(failure.to_string().contains("does not know family"), "{failure}");
}

/// Brings a result, as a client does; what the worker answers.
async fn bring(played: &Played, session: &Session, index: u32, bytes: &[u8]) -> Option<String> {
    let tls = ClientTls::new(&played.cluster.issue(Role::Client).unwrap(), "test").unwrap();
    let address = session.register.address.parse().unwrap();
    let mut connection = connect::<FromPeer, ToPeer>(&address, Role::Worker, &tls, SOON).await.unwrap();
    let say = |message| connection.sender.send(message);
    say(FromPeer::Hello(PeerHello { protocol: PROTOCOL, epoch: EPOCH })).await.unwrap();
    let part = PartHeader { name: String::new(), len: bytes.len() as u64, in_place: None };
    say(FromPeer::Put(Put { id: 9, task: task(index), parts: vec![part] })).await.unwrap();
    for piece in bytes.chunks(1 << 20) {
        say(FromPeer::Piece(Piece { body: Bytes::copy_from_slice(piece) })).await.unwrap();
    }
    loop {
        match soon(connection.receiver.recv()).await.unwrap().expect("an answer") {
            ToPeer::Welcome(_) => {}
            ToPeer::Stored(stored) => {
                assert_eq!(stored.id, 9);
                return stored.error;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn results_that_clients_bring_are_kept_until_nobody_wants_them() {
    let mut played = played().await;
    played.config.worker.memory_limit = MemoryLimit::Size(ByteSize(1 << 30));
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 1).await;
    let large = vec![7; 3_000_000];
    assert_eq!(bring(&played, &session, 5, &large).await, None);
    let news = session.news(|news| !news.rare.stored.is_empty()).await;
    assert_eq!(news.rare.stored, [(task(5), 3_000_000)]);
    // Again: it is here.
    assert_eq!(bring(&played, &session, 5, &large).await, None);
    let got = played.fetch(&session, EPOCH, &[task(5)]).await.unwrap().0;
    assert_eq!(got[0].1.as_ref().unwrap(), &large);
    // A task can use it.
    session.families(vec![info(0, spec("a", "wc -c", &["b"]), Items::Single)]).await;
    session.compute(vec![Handed(6, 0, 0, vec![(5, vec![])], None)]).await;
    let news = session.news(|news| !news.finished.is_empty()).await;
    assert!(news.rare.stored.is_empty(), "it was told once: {news:?}");
    let got = played.fetch(&session, EPOCH, &[task(6)]).await.unwrap().0;
    assert_eq!(got[0].1.as_ref().unwrap(), b"3000000\n");
    session.say(ToWorker::Free(TasksMessage { tasks: vec![task(5)] })).await;
    session.compute(vec![Handed(7, 0, 0, vec![(6, vec![])], None)]).await;
    session.news(|news| !news.finished.is_empty()).await;
    assert_eq!(played.fetch(&session, EPOCH, &[task(5)]).await.unwrap().0, [(task(5), None)]);
}

#[tokio::test]
async fn what_is_larger_than_memory_is_refused() {
    let mut played = played().await;
    played.config.worker.memory_limit = MemoryLimit::Size(ByteSize(64 << 20));
    played.publish().await;
    let (_worker, session) = played.worker("w", 1).await;
    let said = bring(&played, &session, 5, &vec![7; 65 << 20]).await.expect("an error");
    assert!(said.contains("has room for"), "{said}");
    assert_eq!(played.fetch(&session, EPOCH, &[task(5)]).await.unwrap().0, [(task(5), None)]);
}

#[tokio::test]
async fn what_fills_the_memory_leaves_its_pages_to_what_comes_next() {
    const MIB: u64 = 1 << 20;
    let mut played = played().await;
    let settings = &mut played.config.worker;
    settings.memory_limit = MemoryLimit::Size(ByteSize(400 * MIB));
    settings.memory.target = Some(Fraction(0.5));
    played.publish().await;
    let (_worker, mut session) = played.worker("w", 1).await;
    let large = vec![7; 40 << 20];
    for i in 0..3 {
        assert_eq!(bring(&played, &session, i, &large).await, None);
    }
    session.news(|news| news.rare.stored.len() == 3).await;
    assert_eq!(pool::bytes(), 0);
    // Beside them there was room for two more of them at most.
    session.say(ToWorker::Free(TasksMessage { tasks: (0..3).map(task).collect() })).await;
    let kept = async {
        while pool::bytes() < 120 * MIB {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(kept).await;
}
