//! Commands with real processes: how they end, and the nasty ways in which they do not.

use super::*;
use nix::sys::time::TimeValLike;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

const QUICK: CommandExecutor = CommandExecutor {
    kill_grace: Duration::from_millis(300),
    linger: Duration::from_millis(500),
    stuck_after: Duration::from_secs(20),
};

fn argv(argv: &[&str]) -> CommandJob {
    CommandJob {
        key: "t[1]".into(),
        argv: argv.iter().map(|s| s.to_string()).collect(),
        shown: String::new(),
        env: std::env::vars_os().collect(),
        cwd: "/".into(),
        stdin: StdinSource::Inputs(vec![]),
        capture: Capture::File,
        ok_exit: vec![0],
        max_output: None,
        time_limit: None,
        umask: None,
        error_file: None,
        group: None,
    }
}

fn bash(line: &str) -> CommandJob {
    argv(&["bash", "-c", line])
}

fn run(job: CommandJob) -> Outcome {
    QUICK.run(job, &Control::new().unwrap())
}

fn both(job: impl Fn() -> CommandJob) -> [(Capture, Outcome); 2] {
    [Capture::File, Capture::Pipe].map(|capture| (capture, run(CommandJob { capture, ..job() })))
}

fn stdout(outcome: &Outcome) -> String {
    let result = outcome.result.as_ref().unwrap_or_else(|f| panic!("{f} {f:?}"));
    String::from_utf8(result.parts[0].1.bytes().unwrap().to_vec()).unwrap()
}

fn failure(outcome: Outcome) -> Failure {
    outcome.result.expect_err("it should fail")
}

fn alive(marker: &str) -> bool {
    let mine = |pid: &str| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(marker))
    };
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok());
    pids.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit())).any(|pid| mine(&pid))
}

#[test]
fn stdout_is_the_result() {
    for (_, outcome) in both(|| argv(&["echo", "a b", "c"])) {
        assert_eq!(stdout(&outcome), "a b c\n");
        assert!(outcome.max_rss_bytes > 100_000);
        assert!(outcome.wall < Duration::from_secs(20));
    }
}

#[test]
fn large_output_lands_in_a_memory_file() {
    for (capture, outcome) in both(|| bash("head -c 5000000 /dev/zero; echo end")) {
        let result = outcome.result.unwrap();
        assert!(matches!(result.parts[0].1, Data::File(_)), "{capture:?}");
        let bytes = result.parts[0].1.bytes().unwrap();
        assert_eq!(bytes.len(), 5_000_004);
        assert!(bytes.ends_with(b"\0end\n"));
    }
}

#[test]
fn exit_codes_signals_and_the_last_lines_are_told() {
    let job = bash("seq 10000 >&2; echo last words >&2; exit 3");
    let failed = failure(run(job));
    assert_eq!(failed.kind, FailureKind::Exit(3));
    assert!(failed.stderr_tail.ends_with(b"\n9999\n10000\nlast words\n"));
    assert!(failed.stderr_tail.len() <= 4096);
    assert!(failed.command.starts_with("bash -c 'seq 10000"), "{}", failed.command);
    assert_eq!(failure(run(bash("kill -SEGV $$"))).kind, FailureKind::Signal(libc::SIGSEGV));
    assert_eq!(stdout(&run(CommandJob { ok_exit: vec![0, 3], ..bash("echo x; exit 3") })), "x\n");
    assert_eq!(failure(run(CommandJob { ok_exit: vec![3], ..bash("true") })).kind, FailureKind::Exit(0));
}

#[test]
fn a_task_can_say_why_it_failed() {
    let dir = tempfile::tempdir().unwrap();
    let error_file = dir.path().join("error");
    let mut job = bash("echo 'no convergence' > \"$E\"; exit 1");
    job.env.insert("E".into(), error_file.clone().into());
    job.error_file = Some(error_file);
    assert_eq!(failure(run(job)).to_string(), "exit status 1: no convergence");
}

#[test]
fn reopening_stdout_truncates_a_file_and_appends_to_a_pipe() {
    let [file, pipe] = both(|| bash("echo a; echo b > /dev/stdout")).map(|(_, o)| stdout(&o));
    assert_eq!((file.as_str(), pipe.as_str()), ("b\n", "a\nb\n"));
    // The idiom that matters most works either way: a program told to write to /dev/stdout.
    for (_, outcome) in both(|| argv(&["dd", "if=/bin/sh", "of=/dev/stdout", "bs=1000", "count=100"])) {
        assert_eq!(outcome.result.unwrap().nbytes(), 100_000);
    }
}

#[test]
fn inputs_arrive_in_order_however_large() {
    let numbered = |n: u8, len: usize| Data::of_bytes(vec![n; len].into()).unwrap();
    let sizes: [&[usize]; 5] =
        [&[], &[3], &[200_000], &[10, 0, 20], &[300_000, 0, 50_000, 1_000_000, 70_000]];
    for sizes in sizes {
        let inputs: Vec<Data> = sizes.iter().enumerate().map(|(n, &len)| numbered(n as u8, len)).collect();
        let expected: Vec<u8> = inputs.iter().flat_map(|d| d.bytes().unwrap()).collect();
        let outcome = run(CommandJob { stdin: StdinSource::Inputs(inputs), ..argv(&["cat"]) });
        let got = outcome.result.unwrap().parts[0].1.bytes().unwrap();
        assert!(got == expected, "{sizes:?}: {} of {} bytes", got.len(), expected.len());
    }
}

#[test]
fn a_command_may_read_only_the_beginning() {
    let data = Data::of_bytes(vec![b'x'; 4_000_000].into()).unwrap();
    let stdin = StdinSource::Inputs(vec![data.clone(), data]);
    assert_eq!(stdout(&run(CommandJob { stdin, ..argv(&["head", "-c", "2"]) })), "xx");
}

#[test]
fn files_are_read_on_stdin_and_missing_ones_named() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"content").unwrap();
    let stdin = StdinSource::File(file.path().to_path_buf());
    assert_eq!(stdout(&run(CommandJob { stdin, ..argv(&["cat"]) })), "content");
    let stdin = StdinSource::File("/no/such/file".into());
    let failed = failure(run(CommandJob { stdin, ..argv(&["cat"]) }));
    assert!(failed.to_string().contains("/no/such/file"), "{failed}");
}

#[test]
fn too_much_output_ends_it() {
    for (capture, outcome) in both(|| CommandJob { max_output: Some(100_000), ..bash("trap '' TERM; yes") }) {
        let failed = failure(outcome);
        assert_eq!(failed.kind, FailureKind::OutputTooLarge, "{capture:?}");
    }
    // Also when it has ended before anybody looked.
    for (_, outcome) in both(|| CommandJob { max_output: Some(10), ..bash("echo 12345678901") }) {
        assert_eq!(failure(outcome).kind, FailureKind::OutputTooLarge);
    }
}

#[test]
fn the_time_limit_ends_the_whole_group() {
    let line = "sleep 61.25 & trap '' TERM; while :; do sleep 0.05; done";
    let start = Instant::now();
    let failed = failure(run(CommandJob { time_limit: Some(Duration::from_millis(200)), ..bash(line) }));
    assert_eq!(failed.kind, FailureKind::TimeLimit);
    assert_eq!(failed.to_string(), "its time limit is over");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert!(!alive("61.25"));
}

#[test]
fn cancelling_ends_stopped_processes_too() {
    let control = Arc::new(Control::new().unwrap());
    let other = control.clone();
    let thread = std::thread::spawn(move || QUICK.run(bash("sleep 62.25 & kill -STOP $$"), &other));
    let start = Instant::now();
    while !(alive("62.25") && control.pid().is_some()) && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(control.pid().is_some());
    control.cancel(Some("not wanted".into()));
    let failed = failure(thread.join().unwrap());
    assert_eq!(failed.to_string(), "cancelled: not wanted");
    assert!(!alive("62.25") && control.pid().is_none());
}

#[test]
fn the_group_is_waited_for_and_then_ended() {
    for (capture, outcome) in both(|| bash("(sleep 0.2; echo late) & echo early")) {
        assert_eq!(stdout(&outcome), "early\nlate\n", "{capture:?}");
    }
    for (capture, outcome) in both(|| bash("sleep 63.25 & echo early")) {
        assert_eq!(stdout(&outcome), "early\n", "{capture:?}");
        assert!(!alive("63.25"));
    }
}

#[test]
fn a_daemon_that_keeps_stdout_cannot_change_the_result() {
    let late = "setsid bash -c 'for i in $(seq 40); do echo late; sleep 0.05; done'";
    let line = format!("{late} & sleep 0.3; head -c 70000 /dev/zero");
    for (capture, outcome) in both(|| bash(&line)) {
        let result = outcome.result.unwrap();
        let (data, len) = (&result.parts[0].1, result.nbytes());
        assert!((70_000..70_400).contains(&len), "{capture:?} {len}");
        let before = data.bytes().unwrap().to_vec();
        std::thread::sleep(Duration::from_millis(200));
        assert!(data.bytes().unwrap() == before && data.len() == len);
    }
}

#[test]
fn what_cannot_be_started_is_explained() {
    let said = failure(run(argv(&["ehco"]))).to_string();
    assert!(said.contains("no program `ehco`") && said.contains("did you mean `echo`?"), "{said}");
    let said = failure(run(CommandJob { cwd: "/no/such/dir".into(), ..argv(&["true"]) })).to_string();
    assert!(said.contains("working directory /no/such/dir does not exist"), "{said}");
    let long = "x".repeat(100_000);
    let many: Vec<&str> = std::iter::once("true").chain(std::iter::repeat_n(long.as_str(), 100)).collect();
    let failed = failure(run(argv(&many)));
    assert!(failed.to_string().contains("{inputs.list}"), "{failed}");
    assert!(failed.command.len() < 1100);
}

#[test]
fn the_umask_is_the_submitters() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = bash("umask; touch x; stat -c %a x; echo \"$0\" \"$@\"");
    job.argv.extend(["name".into(), "a b".into()]);
    let job = CommandJob { umask: Some(0o027), cwd: dir.path().into(), ..job };
    assert_eq!(stdout(&run(job)), "0027\n640\nname a b\n");
}

#[test]
fn closing_stdout_and_stderr_early_is_no_end() {
    for (_, outcome) in both(|| bash("echo x; exec 1>&- 2>&-; sleep 0.3")) {
        assert_eq!(stdout(&outcome), "x\n");
        assert!(outcome.wall >= Duration::from_millis(250));
    }
}

#[test]
fn a_process_that_does_not_end_gives_its_slot_back() {
    // As if SIGKILL did not help: no time is given for it to work.
    let impatient = CommandExecutor { kill_grace: Duration::ZERO, stuck_after: Duration::ZERO, ..QUICK };
    let control = Control::new().unwrap();
    control.cancel(None);
    let failed = failure(impatient.run(bash("trap '' TERM; sleep 64.25"), &control));
    assert_eq!(failed.kind, FailureKind::Cancelled);
    let start = Instant::now();
    while alive("64.25") && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!alive("64.25"));
}

/// Not a test of truth but of cost: `cargo test -- --ignored --nocapture capture_cost`.
#[test]
#[ignore = "measures"]
fn capture_cost() {
    for size in [1 << 10, 256 << 20] {
        for capture in [Capture::File, Capture::Pipe, Capture::File, Capture::Pipe] {
            let n = if size < 10_000 { 300 } else { 4 };
            let (start, mut cpu) = (Instant::now(), Duration::ZERO);
            let before = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
            for _ in 0..n {
                let outcome =
                    run(CommandJob { capture, ..argv(&["head", "-c", &size.to_string(), "/dev/zero"]) });
                cpu += outcome.cpu;
                assert_eq!(outcome.result.unwrap().nbytes(), size);
            }
            let after = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
            let own = (after.system_time().num_microseconds() + after.user_time().num_microseconds())
                - (before.system_time().num_microseconds() + before.user_time().num_microseconds());
            println!(
                "{size:>10} bytes {capture:?}: {:.3} ms, child {:.3} ms, own {:.3} ms",
                start.elapsed().as_secs_f64() * 1e3 / f64::from(n),
                cpu.as_secs_f64() * 1e3 / f64::from(n),
                own as f64 / 1e3 / f64::from(n)
            );
        }
    }
}
