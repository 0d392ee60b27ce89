//! A worker as a process of its own, and the signals that end it.

use super::*;

const FILE_VARIABLE: &str = "HPCDAG_INTERNAL_TEST_FILE";
const DIRECTORY_VARIABLE: &str = "HPCDAG_INTERNAL_TEST_DIRECTORY";

/// The worker process of `signals_end_a_worker_process`, not a test.
#[test]
#[ignore = "is run by signals_end_a_worker_process"]
fn worker_process() {
    let Some(file) = std::env::var_os(FILE_VARIABLE) else { return };
    let mut config = Config::defaults();
    config.worker.host = Some("127.0.0.1".into());
    let local = std::env::var(DIRECTORY_VARIABLE).unwrap();
    config.worker.local_directory = Some(crate::config::PathTemplate::new(local).unwrap());
    let options = Options {
        config: Arc::new(config),
        scheduler_file: file.into(),
        address: None,
        name: None,
        nthreads: Some(1),
        natives: Registry::default(),
        executor: None,
        embedded: false,
        supervision: None,
        job_id: None,
        job_end: None,
    };
    std::process::exit(crate::worker::run_worker_process(options).map_or(99, i32::from));
}

/// A child that is killed if the test fails.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Child {
    fn start(played: &Played) -> Child {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["worker::tests::process::worker_process", "--exact", "--ignored"]);
        command.env(FILE_VARIABLE, played.path());
        command.env(DIRECTORY_VARIABLE, played.dir.path().join("local"));
        command.stdout(std::process::Stdio::null());
        Child(command.spawn().unwrap())
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        crate::worker::process::send_signal(self.0.id() as i32, signal).unwrap();
    }

    async fn code(&mut self) -> Option<i32> {
        soon(async {
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

#[tokio::test]
async fn signals_end_a_worker_process() {
    use nix::sys::signal::Signal::{SIGINT, SIGTERM};
    let mut played = played().await;
    played.publish().await;
    // Let go in order.
    let mut child = Child::start(&played);
    let mut session = played.accept(1).await;
    session.heartbeat().await;
    child.signal(SIGTERM);
    assert!(matches!(session.next().await, FromWorker::Retiring(_)));
    session.say(ToWorker::Dismiss(Empty {})).await;
    assert_eq!(child.code().await, Some(0));
    // Not let go: the second signal ends it.
    let mut child = Child::start(&played);
    let mut session = played.accept(2).await;
    session.heartbeat().await;
    child.signal(SIGINT);
    assert!(matches!(session.next().await, FromWorker::Retiring(_)));
    child.signal(SIGTERM);
    assert_eq!(child.code().await, Some(0));
    // What the end of the nanny means: nobody is asked.
    let mut child = Child::start(&played);
    let mut session = played.accept(3).await;
    session.heartbeat().await;
    child.signal(crate::worker::process::NANNY_GONE);
    assert_eq!(child.code().await, Some(130));
}
