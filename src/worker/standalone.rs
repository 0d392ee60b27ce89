//! A worker as a process of its own: the body of `hpcdag worker --no-nanny`, and what a nanny starts. Owns
//! what belongs to the whole process: limits, signals, the exit code.

use super::directory;
use super::nanny::RENEW;
use super::process;
use super::server::{Ending, Options, Worker};
use super::strays::kill_strays;
use crate::base::error::{Error, Kind, Result};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals inside a batch job that come so soon after one another are one request to leave: batch systems
/// signal every process, and may do it twice.
const SAME_REQUEST: Duration = Duration::from_secs(2);

/// How long work on blocking threads may take after the worker's end.
const SHUTDOWN_TIME: Duration = Duration::from_secs(1);

/// Runs a worker until its end and returns the exit code to leave with. To be called on the main thread.
///
/// SIGTERM, SIGINT and SIGHUP: the first asks the worker to leave in order, the second stops it, unless a
/// nanny stands by to do that. SIGUSR1, SIGUSR2 and SIGXCPU, by which batch systems warn, ask it to leave.
///
/// # Errors
/// The worker could not be started, or it met something that no ending has a name for.
pub fn run_worker_process(options: Options) -> Result<u8> {
    if let Some(supervision) = &options.supervision {
        process::die_with_parent(supervision.nanny_pid)?;
    }
    process::forbid_core_files()?;
    if let Err(error) = process::raise_open_files() {
        tracing::warn!("results may run out of descriptors: {error}");
    }
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|e| Error::os("cannot start the runtime", e))?;
    let ended = runtime.block_on(run(options));
    runtime.shutdown_timeout(SHUTDOWN_TIME);
    // What left its task's process group.
    process::kill_descendants();
    ended
}

async fn run(options: Options) -> Result<u8> {
    let mut signals = Signals::install()?;
    let supervision = options.supervision.as_ref();
    let directory = supervision.and_then(|s| s.directory.clone());
    let left = supervision.and_then(|s| s.predecessor.as_ref()?.left.clone());
    let own = || directory.iter().chain(&left).cloned().collect();
    let has_nanny = options.supervision.is_some();
    let grace = options.job_id.as_ref().map(|_| options.config.worker.signal_grace.0);
    let mut worker = tokio::select! {
        started = Worker::start(options) => started.map_err(cannot_start)?,
        asked = signals.next() => match asked {
            Asked::NannyGone => leave_at_once(own()),
            // It has nothing that it could hand over.
            Asked::Leave | Asked::LeaveSoon => return Ok(0),
        },
    };
    let mut leaving: Option<Instant> = None;
    loop {
        tokio::select! {
            ended = worker.wait() => return ended.map(|ending| match exit_code(ending) {
                // Nobody is there who could start another one, or it was told to leave besides.
                RENEW if !has_nanny || leaving.is_some() => 0,
                code => code,
            }),
            asked = signals.next() => match asked {
                Asked::NannyGone => leave_at_once(own()),
                Asked::LeaveSoon => worker.retire_signalled("the batch system warned it", None),
                Asked::Leave => {
                    let later = |since: Instant| since.elapsed() > SAME_REQUEST || grace.is_none();
                    let again = leaving.is_some_and(later);
                    // A nanny hands on what the batch system sends to both, and sees to the second request.
                    if again && !has_nanny {
                        worker.stop();
                        continue;
                    }
                    leaving.get_or_insert_with(Instant::now);
                    worker.retire_signalled("it was asked to by a signal", grace);
                }
            },
        }
    }
}

/// What keeps a worker from starting is no crash: the nanny tells them apart by their exit codes.
fn cannot_start(error: Error) -> Error {
    let kind = if error.kind == Kind::Internal { Kind::Launch } else { error.kind };
    Error { kind, ..error }
}

/// The exit code for an ending. Those but 0 and [`RENEW`] are among the nanny's final ones.
fn exit_code(ending: Ending) -> u8 {
    match ending {
        Ending::Dismissed | Ending::Stopped => 0,
        Ending::Renewed => RENEW,
        Ending::SchedulerGone => Kind::NoScheduler.exit_code(),
        Ending::Refused(reason) => {
            tracing::error!("the scheduler refuses this worker: {reason}");
            Kind::Refused.exit_code()
        }
    }
}

/// Without its nanny nobody would clean up after this process later.
fn leave_at_once(directories: Vec<PathBuf>) -> ! {
    tracing::error!("the nanny is gone: killing the tasks and leaving");
    process::kill_descendants();
    for directory in directories {
        kill_strays(&directory);
        // Nobody is left who could do better.
        let _ = directory::remove(&directory);
    }
    std::process::exit(i32::from(Kind::Cancelled.exit_code()))
}

/// What a signal asks for.
enum Asked {
    /// Leave.
    Leave,
    /// Leave, the end is coming.
    LeaveSoon,
    NannyGone,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    warnings: [Signal; 3],
    nanny_gone: Signal,
}

impl Signals {
    fn install() -> Result<Signals> {
        let handle = |kind| signal(kind).map_err(|e| Error::os("cannot handle signals", e));
        Ok(Signals {
            terminate: handle(SignalKind::terminate())?,
            interrupt: handle(SignalKind::interrupt())?,
            hang_up: handle(SignalKind::hangup())?,
            warnings: [
                handle(SignalKind::user_defined1())?,
                handle(SignalKind::user_defined2())?,
                handle(SignalKind::from_raw(libc::SIGXCPU))?,
            ],
            nanny_gone: handle(SignalKind::from_raw(process::NANNY_GONE as i32))?,
        })
    }

    async fn next(&mut self) -> Asked {
        let [usr1, usr2, xcpu] = &mut self.warnings;
        tokio::select! {
            _ = usr1.recv() => Asked::LeaveSoon,
            _ = usr2.recv() => Asked::LeaveSoon,
            _ = xcpu.recv() => Asked::LeaveSoon,
            _ = self.nanny_gone.recv() => Asked::NannyGone,
            _ = self.terminate.recv() => Asked::Leave,
            _ = self.interrupt.recv() => Asked::Leave,
            _ = self.hang_up.recv() => Asked::Leave,
        }
    }
}
