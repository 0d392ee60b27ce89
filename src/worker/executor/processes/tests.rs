//! Real executor processes: this test program is one of them.

use super::*;
use crate::base::failure::{Enforced, Overrun};
use crate::base::ids::Attempt;
use crate::graph::items::Item;
use crate::worker::executor::native::{NativeContext, NativeInput, Registry};
use crate::worker::store::data::{Data, TaskResult};
use bytes::Bytes;
use serde_json::json;
use std::time::Instant;

const MIB: usize = 1 << 20;

/// The functions of the tests' executors.
fn functions() -> Registry {
    let registry = Registry::default();
    registry.register("abort", |_| {
        eprintln!("last words");
        std::process::abort()
    });
    registry.register("exit", |_| std::process::exit(7));
    registry.register("deaf", |_| {
        std::thread::sleep(Duration::from_secs(600));
        Ok(())
    });
    registry.register("pid", |context| write(context, &std::process::id().to_string()));
    registry.register("environment", |context| {
        let found = std::env::var("MALLOC_TRIM_THRESHOLD_").unwrap_or_default();
        write(context, &found)
    });
    registry.register("holes", |_| {
        let blocks: Vec<Vec<u8>> = (0..1000).map(|_| vec![1; 60 << 10]).collect();
        // Above all of them, so that they cannot be given back without being asked for.
        std::mem::forget(vec![1u8; 1 << 10]);
        drop(blocks);
        Ok(())
    });
    registry.register("slow output", |context| {
        context.alloc(8 * MIB).map_err(|e| e.to_string())?.fill(1);
        context.sleep(Duration::from_secs(2));
        Ok(())
    });
    registry
}

fn write(context: &mut NativeContext<'_>, text: &str) -> Result<(), String> {
    context.write(text.as_bytes()).map_err(|e| e.to_string())
}

#[test]
#[ignore = "is run by the other tests as an executor"]
fn be_an_executor() {
    if std::env::var_os("HPCDAG_TEST_EXECUTOR").is_some() {
        std::process::exit(serve(functions()).map_or(99, i32::from));
    }
}

fn pool(idle_bytes: usize) -> IsolatedNatives {
    let name = concat!(module_path!(), "::be_an_executor").split_once("::").unwrap().1;
    let program = Program {
        path: std::env::current_exe().unwrap(),
        args: ["--exact", name, "--ignored", "--nocapture"].map(OsString::from).to_vec(),
    };
    let env = std::env::vars_os().chain([("HPCDAG_TEST_EXECUTOR".into(), "1".into())]).collect();
    IsolatedNatives::new(program, env, Duration::from_millis(200), idle_bytes as u64, Arc::default())
}

fn job(function: &str, args: serde_json::Value, inputs: &[&[u8]]) -> NativeJob {
    let input = |bytes: &&[u8]| NativeInput {
        producer: "p".into(),
        key: "p[0]".into(),
        result: Arc::new(TaskResult::of(Data::of_bytes(Bytes::copy_from_slice(bytes)).unwrap())),
    };
    NativeJob {
        key: "k".into(),
        index: 3,
        item: Item::Text("x".into()),
        attempt: Attempt { epoch: 1, n: 1 },
        function: function.into(),
        args,
        inputs: inputs.iter().map(input).collect(),
        max_output: None,
        time_limit: None,
    }
}

fn run(pool: &IsolatedNatives, job: NativeJob) -> Result<Bytes, Failure> {
    let outcome = pool.run(job, &Control::new().unwrap());
    outcome.result.map(|r| r.parts[0].1.bytes().unwrap())
}

#[test]
fn functions_get_their_inputs_and_give_results() {
    let pool = pool(MIB * 100);
    let (large, small) = (vec![7; MIB], b"abc".to_vec());
    let got = run(&pool, job("concat", json!({}), &[&large, &small, b""])).unwrap();
    assert_eq!(got, [large, small].concat());
    assert_eq!(&run(&pool, job("bytes", json!({"size": 3, "fill": 7}), &[])).unwrap()[..], [7, 7, 7]);
    assert_eq!(run(&pool, job("environment", json!(null), &[])).unwrap(), "65536");
    let error = run(&pool, job("nop", json!(null), &[])).unwrap_err();
    assert!(error.to_string().contains("no native function `nop`"), "{error}");
    let pid = |pool: &IsolatedNatives| run(pool, job("pid", json!(null), &[])).unwrap();
    assert_eq!(pid(&pool), pid(&pool), "it is kept warm");
    assert_eq!(pool.counts.started(), 1);
}

#[test]
fn one_that_dies_fails_its_task_only() {
    let pool = pool(MIB * 100);
    let failure = run(&pool, job("abort", json!(null), &[])).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Signal(libc::SIGABRT));
    assert!(String::from_utf8_lossy(&failure.stderr_tail).contains("last words"), "{failure:?}");
    assert!(failure.to_string().contains("executor process ended"), "{failure}");
    assert_eq!(run(&pool, job("exit", json!(null), &[])).unwrap_err().kind, FailureKind::Exit(7));
    run(&pool, job("noop", json!(null), &[])).unwrap();
    assert_eq!((pool.counts.died(), pool.counts.started()), (2, 3));
    // One that is killed while it waits costs nothing.
    let pid: i32 =
        String::from_utf8_lossy(&run(&pool, job("pid", json!(null), &[])).unwrap()).parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    // Until the kernel has it to be reaped, and no sooner: what `/proc` says is not that.
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    run(&pool, job("noop", json!(null), &[])).unwrap();
}

#[test]
fn a_program_that_is_no_executor_is_named() {
    let none = |path: &str| {
        let program = Program { path: path.into(), args: vec![] };
        let pool = IsolatedNatives::new(program, BTreeMap::new(), Duration::ZERO, 0, Arc::default());
        run(&pool, job("noop", json!(null), &[])).unwrap_err().to_string()
    };
    assert!(none("/bin/false").contains("/bin/false does not start"), "{}", none("/bin/false"));
    assert!(none("/nowhere/x").contains("cannot start an executor (/nowhere/x)"));
}

#[test]
fn tasks_are_stopped_asked_or_not() {
    let pool = pool(MIB * 100);
    let control = Control::new().unwrap();
    let outcome = std::thread::scope(|scope| {
        let running = scope.spawn(|| pool.run(job("sleep", json!({"seconds": 60}), &[]), &control));
        while control.pid().is_none() {
            std::thread::yield_now();
        }
        control.cancel(Some("for a reason".into()));
        running.join().unwrap()
    });
    let failure = outcome.result.unwrap_err();
    assert_eq!((&failure.kind, failure.reason.as_deref()), (&FailureKind::Cancelled, Some("for a reason")));
    assert_eq!(control.pid(), None);
    // It looked, so it lives.
    run(&pool, job("noop", json!(null), &[])).unwrap();
    assert_eq!(pool.counts.started(), 1);
    let mut deaf = job("deaf", json!(null), &[]);
    deaf.time_limit = Some(Duration::from_millis(50));
    assert_eq!(run(&pool, deaf).unwrap_err().kind, FailureKind::TimeLimit);
    let overrun = Overrun { declared: 1, reached: 2, by: Enforced::Watching(10) };
    let control = Control::new().unwrap();
    control.end_for_overrun(overrun);
    let failure = pool.run(job("sleep", json!({"seconds": 60}), &[]), &control).result.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Overrun(overrun));
    assert_eq!((pool.counts.died(), pool.counts.replaced()), (0, 0));
}

#[test]
fn output_counts_while_it_is_made() {
    let (pool, control) = (pool(MIB * 100), Control::new().unwrap());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| pool.run(job("slow output", json!(null), &[]), &control));
        let begin = Instant::now();
        while control.captured_bytes() != 8 * MIB as u64 {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
        let result = running.join().unwrap().result.unwrap();
        assert!(matches!(&result.parts[0].1, Data::File(file) if file.len() == 8 * MIB as u64));
    });
    assert_eq!(control.captured_bytes(), 0);
}

#[test]
fn what_an_idle_one_keeps_is_given_back_or_it_is_replaced() {
    let pool = pool(20 * MIB);
    run(&pool, job("holes", json!(null), &[])).unwrap();
    assert_eq!((pool.counts.trimmed(), pool.counts.replaced()), (1, 0));
    for _ in 0..50 {
        run(&pool, job("leak", json!({"size": "1 MiB"}), &[])).unwrap();
    }
    assert!((2..=3).contains(&pool.counts.replaced()), "{:?}", pool.counts);
}

#[test]
fn the_bound_follows_the_limit() {
    let of = |limit| idle_bytes(limit, 4);
    assert_eq!([None, Some(1 << 40), Some(1 << 20)].map(of), [256 << 20, 256 << 20, 8 << 20]);
    assert_eq!([1, 4, 10].map(|slots| idle_bytes(Some(1000 << 20), slots)), [50, 50, 20].map(|n| n << 20));
}
