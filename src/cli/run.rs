//! `hpcdag run`: a cluster around one client program. Owns the program's process: what it is told of the
//! cluster and of signals, and that the cluster ends with it, however it ends.

use super::args::RunArgs;
use super::batch;
use super::compat;
use super::context::Context;
use super::output;
use super::signals::Requests;
use super::up;
use crate::base::error::{Error, Kind, Result};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

/// `run`
pub fn run(context: &Context, args: &RunArgs) -> Result<u8> {
    args.batch.refuse_without_batch()?;
    if args.batch.batch.is_some() {
        return batch::run(context, args);
    }
    if args.check {
        return Err(Error::new(Kind::Usage, "--check is for a whole run as one job of a batch system")
            .hint("add --batch slurm, pbs or sge"));
    }
    if args.up.json.json {
        return Err(Error::new(Kind::Usage, "--json and the command's stdout cannot share this one's")
            .hint("--json is for --batch, where nothing else is printed"));
    }
    // From now on a signal ends the cluster too.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|e| Error::os("cannot start the runtime", e))?;
    let mut requests = {
        let _inside = runtime.enter();
        Requests::listen()?
    };
    let cluster = up::bring_up(context, &args.up)?;
    // What came while it was coming up counts as well.
    let ended = runtime.block_on(program(&args.command, &cluster.scheduler.path, &mut requests));
    let down = up::take_down(context, &cluster);
    let code = ended?;
    if let Err(error) = down {
        output::print_error(&error);
    }
    Ok(code)
}

/// Runs a client program to its end; its exit code. Signals are handed on to it.
///
/// # Errors
/// `Launch` when it cannot be started.
pub(super) async fn program(
    command: &[OsString],
    scheduler_file: &Path,
    requests: &mut Requests,
) -> Result<u8> {
    let Some((name, args)) = command.split_first() else {
        return Err(Error::new(Kind::Usage, "there is no command to run"));
    };
    let shown = name.to_string_lossy().into_owned();
    let mut process = std::process::Command::new(name);
    process.args(args).env("HPCDAG_SCHEDULER_FILE", scheduler_file);
    if let Some(path) = compat::python_path(name)? {
        process.env("PYTHONPATH", path);
    }
    let fault = |e: std::io::Error| Error::new(Kind::Launch, format!("cannot start {shown}: {e}"));
    let child = process.spawn().map_err(fault)?;
    let pid = i32::try_from(child.id()).unwrap_or(0);
    let mut child = child;
    let mut waiting = tokio::task::spawn_blocking(move || child.wait());
    loop {
        tokio::select! {
            ended = &mut waiting => {
                let ended = ended.map_err(|e| Error::os("waiting for the command was given up", e))?;
                return Ok(exit_code(ended.map_err(|e| Error::os("cannot wait for the command", e))?));
            }
            signal = requests.next() => {
                // Ctrl-C of a terminal reaches it without us as well; to ask twice would mean something else.
                if signal == "SIGINT" && is_foreground() {
                    continue;
                }
                hand_on(pid, signal);
            }
        }
    }
}

fn hand_on(pid: i32, signal: &str) {
    use nix::sys::signal::{Signal, kill};
    let signal = match signal {
        "SIGINT" => Signal::SIGINT,
        "SIGHUP" => Signal::SIGHUP,
        _ => Signal::SIGTERM,
    };
    if pid > 0 {
        // It may have ended in between.
        let _ = kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

/// Whether this process is in its terminal's foreground group, as what it starts is then too.
fn is_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    nix::unistd::tcgetpgrp(&terminal).is_ok_and(|group| group == nix::unistd::getpgrp())
}

/// As shells say it: 128 and the signal's number for one that a signal ended.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}
