//! Tests of the nanny with real processes. A nanny takes over its whole process, so each test starts this
//! test program again in a role: [`role`] is where those processes begin.

use super::*;
use std::process::{Child, Command};

const ROLE: &str = "HPCDAG_TEST_ROLE";
const SCRIPT: &str = "HPCDAG_TEST_SCRIPT";

/// Not a test of its own: what the processes started by the others do. Without a role it does nothing.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("nanny") => be_nanny(),
        Ok("worker") => be_worker(),
        _ => {}
    }
}

/// A nanny with short patience around a shell script, or around this program as a worker when there is none.
fn be_nanny() {
    let base = std::env::current_dir().expect("a current directory");
    let mut options = match std::env::var_os(SCRIPT) {
        Some(script) => NannyOptions::new("/bin/sh", vec!["-c".into(), script]),
        None => {
            let exe = std::env::current_exe().expect("this program");
            let mut options = NannyOptions::new(exe, role_args());
            options.env.push((ROLE.into(), "worker".into()));
            options
        }
    };
    options.local_directory = Some(base);
    options.restarts.pause_first = Duration::from_millis(5);
    options.restarts.quick_crashes_max = 3;
    let code = match run(&options) {
        Ok(code) => code,
        Err(error) => {
            std::fs::write("error", error.to_string()).expect("written");
            error.kind.exit_code()
        }
    };
    std::process::exit(code.into());
}

/// A worker that does what a real one does first, and then nothing.
fn be_worker() {
    let supervision = Supervision::from_env().expect("a nanny");
    process::die_with_parent(supervision.nanny_pid).expect("the nanny lives");
    std::fs::write("worker", std::process::id().to_string()).expect("written");
    std::thread::sleep(Duration::from_secs(60));
}

fn role_args() -> Vec<OsString> {
    ["--exact", "worker::nanny::tests::role", "--nocapture"].map(OsString::from).to_vec()
}

/// A running nanny and the directory that it and its worker are in.
struct Running {
    directory: tempfile::TempDir,
    process: Child,
}

fn start(script: Option<&str>) -> Running {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(role_args()).env(ROLE, "nanny").env_remove(SCRIPT).current_dir(directory.path());
    command.stdout(std::process::Stdio::null());
    if let Some(script) = script {
        command.env(SCRIPT, script);
    }
    Running { directory, process: command.spawn().expect("started") }
}

impl Running {
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    /// The number that a process wrote into a file, once it is there.
    fn wait_for_number(&self, name: &str) -> i32 {
        let found = eventually(|| self.read(name).trim().parse().ok());
        found.unwrap_or_else(|| panic!("{name} never appeared"))
    }

    fn signal(&self, signal: Signal) {
        assert!(process::send_signal(self.process.id() as i32, signal).expect("allowed"));
    }

    /// The exit code, 128 + n for signal n.
    fn end(&mut self) -> i32 {
        let status = eventually(|| self.process.try_wait().expect("waited"));
        match status {
            Some(status) => {
                use std::os::unix::process::ExitStatusExt;
                status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
            }
            None => panic!("the nanny does not end"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn eventually<T>(mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(found) = check() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Gone or a zombie: nothing of it runs any more. (Inside containers pid 1 may not reap.)
fn ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with(['Z', 'X']) || rest.is_empty())
}

#[test]
fn clean_exit_ends_it() {
    let mut nanny = start(Some("echo once >> log"));
    assert_eq!(nanny.end(), 0);
    assert_eq!(nanny.read("log"), "once\n");
}

#[test]
fn final_exit_codes_are_passed_on() {
    let mut nanny = start(Some("echo once >> log; exit 6"));
    assert_eq!(nanny.end(), i32::from(Kind::NoScheduler.exit_code()));
    assert_eq!(nanny.read("log"), "once\n");
}

#[test]
fn what_does_not_let_it_start_is_final() {
    let mut nanny = start(Some("echo once >> log; exit 10"));
    assert_eq!(nanny.end(), i32::from(Kind::File.exit_code()));
    assert_eq!(nanny.read("log"), "once\n");
    // After a life that had begun it may be a passing trouble.
    let script = "echo x >> log; case $HPCDAG_INTERNAL_LIFE in 1) exit 101;; 2) exit 10;; esac";
    let mut nanny = start(Some(script));
    assert_eq!(nanny.end(), 0);
    assert_eq!(nanny.read("log"), "x\nx\nx\n");
}

#[test]
fn crash_restarts_and_tells_the_next_life() {
    let script = "
        echo $HPCDAG_INTERNAL_LIFE $HPCDAG_INTERNAL_INCARNATION >> lives
        echo ${HPCDAG_INTERNAL_PREDECESSOR:-none} ${HPCDAG_INTERNAL_PREDECESSOR_END:-none} >> deaths
        case $HPCDAG_INTERNAL_LIFE in 1) exit 101;; 2) kill -SEGV $$;; esac";
    let mut nanny = start(Some(script));
    assert_eq!(nanny.end(), 0);
    let lives = nanny.read("lives");
    let lives: Vec<(&str, &str)> = lives.lines().filter_map(|l| l.split_once(' ')).collect();
    assert_eq!(lives.iter().map(|l| l.0).collect::<Vec<_>>(), ["1", "2", "3"]);
    let deaths = nanny.read("deaths");
    let expected = format!("none none\n{} exit code 101\n{} SIGSEGV", lives[0].1, lives[1].1);
    assert!(deaths.starts_with(&expected), "{deaths}");
}

#[test]
fn a_worker_that_is_to_be_renewed_has_not_crashed() {
    // More often than crashes are borne.
    let script = "
        echo ${HPCDAG_INTERNAL_PREDECESSOR:-none} >> lives
        [ $HPCDAG_INTERNAL_LIFE = 6 ] || exit 75";
    let mut nanny = start(Some(script));
    assert_eq!(nanny.end(), 0);
    assert_eq!(nanny.read("lives"), "none\n".repeat(6));
}

#[test]
fn gives_up_and_says_why() {
    let mut nanny = start(Some("echo x >> lives; exit 101"));
    assert_eq!(nanny.end(), i32::from(Kind::Launch.exit_code()));
    assert_eq!(nanny.read("lives").lines().count(), 3);
    assert!(nanny.read("error").contains("crashed 3 times"), "{}", nanny.read("error"));
    assert!(nanny.read("error").contains("exit code 101"));
}

#[test]
fn missing_program_is_said() {
    let options = NannyOptions::new("/nonexistent/hpcdag", Vec::new());
    let error = Nanny { options: &options, signals: SignalPipe::idle(), phase: Phase::Running, asked: None }
        .supervise()
        .expect_err("missing");
    assert_eq!(error.kind, Kind::Launch);
    assert!(error.message.contains("/nonexistent/hpcdag"), "{error}");
}

#[test]
fn first_request_is_handed_on_as_sigterm() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut nanny =
            start(Some("trap 'echo asked > log; exit 0' TERM; echo $$ > pid; while :; do sleep 0.05; done"));
        nanny.wait_for_number("pid");
        nanny.signal(signal);
        assert_eq!(nanny.end(), 0);
        assert_eq!(nanny.read("log"), "asked\n");
    }
}

#[test]
fn user_signals_are_handed_on() {
    let mut nanny =
        start(Some("trap 'echo one > log; exit 0' USR1; echo $$ > pid; while :; do sleep 0.05; done"));
    nanny.wait_for_number("pid");
    nanny.signal(Signal::SIGUSR1);
    assert_eq!(nanny.end(), 0);
    assert_eq!(nanny.read("log"), "one\n");
}

#[test]
fn a_crash_while_leaving_is_not_restarted() {
    let mut nanny =
        start(Some("trap 'exit 101' TERM; echo $HPCDAG_INTERNAL_LIFE >> pid; while :; do sleep 0.05; done"));
    nanny.wait_for_number("pid");
    nanny.signal(Signal::SIGTERM);
    assert_eq!(nanny.end(), 101);
    assert_eq!(nanny.read("pid"), "1\n");
}

#[test]
fn second_request_kills_all() {
    let script = "trap 'echo asked > log' TERM; setsid sh -c 'echo $$ > task; exec sleep 60' &
        while :; do sleep 0.05; done";
    let mut nanny = start(Some(script));
    let task = nanny.wait_for_number("task");
    nanny.signal(Signal::SIGTERM);
    assert!(eventually(|| (nanny.read("log") == "asked\n").then_some(())).is_some());
    assert!(!ended(task));
    nanny.signal(Signal::SIGTERM);
    assert_eq!(nanny.end(), i32::from(Kind::Cancelled.exit_code()));
    assert!(ended(task));
}

#[test]
fn orphans_and_the_directory_go_with_the_worker() {
    let script = "
        mkdir -p \"$HPCDAG_INTERNAL_DIRECTORY/deep\"
        echo \"$HPCDAG_INTERNAL_DIRECTORY\" >> directories
        if [ $HPCDAG_INTERNAL_LIFE = 1 ]; then
            setsid sh -c 'setsid sh -c \"echo \\$\\$ > inner; exec sleep 60\" & echo $$ > outer; wait' &
            while [ ! -s inner ] || [ ! -s outer ]; do sleep 0.02; done
            kill -KILL $$
        fi
        ls -d worker-* > left";
    let mut nanny = start(Some(script));
    assert_eq!(nanny.end(), 0);
    for name in ["inner", "outer"] {
        assert!(ended(nanny.wait_for_number(name)), "{name} lives");
    }
    let directories = nanny.read("directories");
    let directories: Vec<&str> = directories.lines().collect();
    assert_eq!(directories.len(), 2);
    // The second life saw only its own directory, and at the end there is none.
    assert!(nanny.read("left").lines().all(|left| directories[1].ends_with(left)), "{}", nanny.read("left"));
    assert!(directories.iter().all(|d| !Path::new(d).exists()));
    assert!(nanny.directory.path().exists());
}

#[test]
fn the_worker_dies_with_a_killed_nanny() {
    let mut nanny = start(None);
    let worker = nanny.wait_for_number("worker");
    nanny.signal(Signal::SIGKILL);
    assert_eq!(nanny.end(), 128 + 9);
    assert!(eventually(|| ended(worker).then_some(())).is_some(), "the worker outlived its nanny");
}

#[test]
fn pauses_grow_and_end() {
    let policy = RestartPolicy::default();
    let pauses: Vec<Option<u64>> = (1..=10).map(|n| policy.pause(n).map(|p| p.as_secs())).collect();
    let expected = [0, 1, 2, 4, 8, 16, 32, 60, 60].map(Some);
    assert_eq!(pauses[..9], expected);
    assert_eq!(pauses[9], None);
    let endless = RestartPolicy { quick_crashes_max: u32::MAX, ..policy };
    assert_eq!(endless.pause(1000), Some(Duration::from_secs(60)));
}
