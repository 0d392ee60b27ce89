//! The executor's side: a process that runs native functions one after the other for the worker that started
//! it. Owns its whole life; ends when the worker closes the connection, whatever it is doing.

use super::channel::{Channel, Frame};
use super::messages::{Done, End, Hello, Run, Task, VERSIONS, Welcome, send_done, tag, take_inputs};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::Attempt;
use crate::worker::executor::control::Control;
use crate::worker::executor::native::{NativeExecutor, NativeJob, Registry};
use crate::worker::executor::{Executor, FailureKind};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// Runs the functions of a registry for the worker at the other end of stdin, and returns the exit code when
/// that has gone. For the first thing that a program does, before it starts threads. What the functions print
/// goes to the worker, which keeps the end of it for failures.
///
/// # Errors
/// This process was not started by a worker, or by one of another version.
pub fn serve(registry: Registry) -> Result<u8> {
    let channel = Arc::new(take_stdin()?);
    let fault = |e: io::Error| Error::os("an executor cannot talk to its worker", e);
    greet(&channel).map_err(fault)?;
    let (orders, coming) = mpsc::channel();
    let running: Arc<Running> = Arc::default();
    let (ear, told) = (channel.clone(), running.clone());
    std::thread::Builder::new()
        .name("orders".into())
        .spawn(move || listen(&ear, &told, &orders))
        .map_err(fault)?;
    let executor = NativeExecutor::new(Arc::new(registry));
    while let Ok(order) = coming.recv() {
        let said = match order {
            Order::Run(task, job, control) => {
                let done = run(&executor, &channel, task, *job, &control);
                *lock(&running) = None;
                done
            }
            Order::Trim => {
                trim();
                channel.send(tag::TRIMMED, &(), &[], &[])
            }
        };
        if let Err(error) = said {
            return Err(fault(error));
        }
    }
    Ok(0)
}

type Running = Mutex<Option<(u64, Arc<Control>)>>;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Order {
    Run(u64, Box<NativeJob>, Arc<Control>),
    Trim,
}

/// The connection, moved away from where processes that a function starts would inherit it.
fn take_stdin() -> Result<Channel> {
    use nix::sys::socket::{getsockopt, sockopt};
    let stdin = io::stdin();
    if getsockopt(&stdin, sockopt::SockType).is_err() {
        return Err(Error::new(Kind::Usage, "an executor is started by a worker, not by hand"));
    }
    let fault = |e: nix::errno::Errno| Error::os("cannot take over the connection to the worker", e);
    let fd = nix::fcntl::fcntl(stdin.as_fd(), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3)).map_err(fault)?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    let own = unsafe { OwnedFd::from_raw_fd(fd) };
    let null = File::open("/dev/null").map_err(|e| Error::os("cannot open /dev/null", e))?;
    nix::unistd::dup2_stdin(&null).map_err(fault)?;
    Channel::of(own).map_err(|e| Error::os("cannot take over the connection to the worker", e))
}

fn greet(channel: &Channel) -> io::Result<()> {
    let (oldest, newest) = VERSIONS;
    let hello = Hello { oldest, newest, kind: "native".into(), pid: std::process::id() };
    channel.send(tag::HELLO, &hello, &[], &[])?;
    match channel.receive()? {
        Some(frame) if frame.tag == tag::WELCOME => {
            let version = frame.control::<Welcome>()?.version;
            match (oldest..=newest).contains(&version) {
                true => Ok(()),
                false => Err(io::Error::other(format!("it speaks version {version} of the protocol"))),
            }
        }
        Some(frame) => Err(io::Error::other(format!("it said {} instead of welcome", frame.tag))),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Hears what the worker says, while a function may be running.
fn listen(channel: &Channel, running: &Running, orders: &mpsc::Sender<Order>) {
    let mut inputs = Vec::new();
    loop {
        let understood = match channel.receive() {
            Ok(Some(frame)) => understand(frame, &mut inputs, running, orders),
            // The worker has gone, or is done with this process: nobody wants what is being computed.
            Ok(None) => std::process::exit(0),
            Err(error) => Err(error),
        };
        if let Err(error) = understood {
            eprintln!("an executor does not understand its worker: {error}");
            std::process::exit(i32::from(Kind::Internal.exit_code()));
        }
    }
}

fn understand(
    frame: Frame,
    inputs: &mut Vec<crate::worker::executor::native::NativeInput>,
    running: &Running,
    orders: &mpsc::Sender<Order>,
) -> io::Result<()> {
    // The other thread ends only with the process.
    let order = |order| orders.send(order).map_err(io::Error::other);
    match frame.tag {
        tag::INPUTS => take_inputs(frame, inputs),
        tag::RUN => {
            let run: Run = frame.control()?;
            let control = Arc::new(Control::new()?);
            *lock(running) = Some((run.task, control.clone()));
            let (epoch, n) = run.attempt;
            let job = NativeJob {
                key: run.key,
                index: run.index,
                item: run.item,
                attempt: Attempt { epoch, n },
                function: run.function,
                args: run.args,
                inputs: std::mem::take(inputs),
                max_output: run.max_output,
                time_limit: run.time_limit_ms.map(Duration::from_millis),
            };
            order(Order::Run(run.task, Box::new(job), control))
        }
        tag::CANCEL => {
            let Task { task } = frame.control()?;
            if let Some((_, control)) = lock(running).as_ref().filter(|(running, _)| *running == task) {
                control.cancel(None);
            }
            Ok(())
        }
        tag::TRIM => order(Order::Trim),
        other => Err(io::Error::other(format!("message {other}"))),
    }
}

fn run(
    executor: &NativeExecutor,
    channel: &Arc<Channel>,
    task: u64,
    job: NativeJob,
    control: &Control,
) -> io::Result<()> {
    let voice = channel.clone();
    // The worker counts what is being made. If it cannot be told it has gone, and so are we soon.
    control
        .announce_captures(move |file| drop(voice.send(tag::OUTPUT, &Task { task }, &[], &[file.as_fd()])));
    // Inputs are unmapped with the job, at the end of this call.
    let outcome = executor.run(job, control);
    let (end, result) = match outcome.result {
        Ok(result) => (End::Succeeded, Some(result)),
        Err(failure) => {
            let end = match failure.kind {
                FailureKind::Cancelled => End::Cancelled,
                FailureKind::TimeLimit => End::TimeLimit,
                FailureKind::Result(text) => End::Unkept(text),
                FailureKind::Native(text) => End::Failed(text),
                other => End::Failed(other.to_string()),
            };
            (end, None)
        }
    };
    let cpu_ns = u64::try_from(outcome.cpu.as_nanos()).unwrap_or(u64::MAX);
    send_done(channel, Done { task, end, parts: Vec::new(), cpu_ns }, result.as_ref())
}

/// Gives free memory back to the system.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a plain call; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
