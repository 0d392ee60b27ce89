//! `hpcdag bench start`: from nothing to the first result, all parts being processes. Owns starting them at
//! once, and their ends; what takes the time is theirs.

use super::figures::Figures;
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::BenchStartArgs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Runs the command; returns the exit code.
///
/// # Errors
/// `Launch` when a part cannot be started or the task does not succeed; what [`Figures::finish`] finds.
pub fn start(args: &BenchStartArgs) -> Result<u8> {
    let (mut whole, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        alone.push(process_alone()?);
        whole.push(cluster(args.nworkers)?);
    }
    let wall = middle(&mut whole);
    let mut figures = Figures::new("start", 1, wall, Duration::ZERO)
        .with("nworkers", args.nworkers)
        .say("process_seconds", middle(&mut alone).as_secs_f64())
        .say("most_seconds", whole.last().map(Duration::as_secs_f64));
    figures.cpu_us_per_task = 0.0;
    figures.finish(&args.record)
}

/// Sorts them, too.
fn middle(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A process of this program that only says its version.
fn process_alone() -> Result<Duration> {
    let begin = Instant::now();
    let mut child = Part::start(&["--version"], None)?;
    ended_well(child.wait()?, "hpcdag --version")?;
    Ok(begin.elapsed())
}

/// A scheduler, workers, and a client with one task, all started at once. Each finds the scheduler by its
/// file, for which it waits.
fn cluster(nworkers: u32) -> Result<Duration> {
    let fault = |e: std::io::Error| Error::os("cannot make a directory for the cluster", e);
    let directory = tempfile::Builder::new().prefix("hpcdag-bench-").tempdir().map_err(fault)?;
    let file = directory.path().join("scheduler.json");
    let Some(file) = file.to_str() else {
        return Err(Error::new(Kind::File, "the directory for temporary files is not UTF-8"));
    };
    let by_file = ["--scheduler-file", file];
    let begin = Instant::now();
    let mut scheduler =
        Part::start(&[&["scheduler", "--host", "127.0.0.1"], &by_file[..]].concat(), Some(&directory))?;
    let mut workers = Vec::new();
    for _ in 0..nworkers {
        let args = ["worker", "--no-nanny", "--host", "127.0.0.1", "--nthreads", "1"];
        workers.push(Part::start(&[&args[..], &by_file].concat(), Some(&directory))?);
    }
    let all = nworkers.to_string();
    let submit = ["submit", "--wait-workers", &all];
    let mut client = Part::start(&[&submit[..], &by_file, &["--", "true"]].concat(), Some(&directory))?;
    ended_well(client.wait()?, "hpcdag submit")?;
    let wall = begin.elapsed();
    let mut stop = Part::start(&[&["stop"], &by_file[..]].concat(), Some(&directory))?;
    ended_well(stop.wait()?, "hpcdag stop")?;
    for part in workers.iter_mut().chain([&mut scheduler]) {
        part.wait()?;
    }
    Ok(wall)
}

fn ended_well(status: ExitStatus, what: &str) -> Result<()> {
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(Kind::Launch, format!("{what} ended with {status}"))),
    }
}

/// What a process took.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Processor time.
    pub cpu: Duration,
    /// The most memory that it occupied, bytes.
    pub peak_bytes: u64,
}

/// A process. Killed when dropped.
pub struct Part {
    child: Child,
    /// Its id may be another's by now.
    gone: bool,
}

impl Part {
    /// Starts this program. Its state, its log and its files are in `directory`.
    ///
    /// # Errors
    /// `Launch` when that is not possible.
    pub fn start(args: &[&str], directory: Option<&TempDir>) -> Result<Part> {
        let mut command = Command::new("/proc/self/exe");
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(directory) = directory {
            let path: &Path = directory.path();
            let log = crate::cli::output::open_log(&path.join("log"))?;
            command.stderr(log).env("XDG_STATE_HOME", path).env("TMPDIR", path);
        }
        let child = command.spawn();
        let child = child.map_err(|e| Error::new(Kind::Launch, format!("cannot start a process: {e}")))?;
        Ok(Part { child, gone: false })
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended well; what it took.
    ///
    /// # Errors
    /// `Launch` when it has not.
    pub fn wait_with_usage(&mut self) -> Result<Used> {
        let pid = i32::try_from(self.child.id()).unwrap_or(i32::MAX);
        let mut status = 0;
        // SAFETY: all zeroes is a valid rusage, both pointers are valid for the call, and the child has not
        // been waited for, so that its id is its own.
        let (got, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::wait4(pid, &mut status, 0, &mut usage), usage)
        };
        self.gone = got == pid;
        if got != pid || status != 0 {
            return Err(Error::new(Kind::Launch, format!("hpcdag submit ended with status {status:#x}")));
        }
        let time = |t: libc::timeval| {
            Duration::from_secs(u64::try_from(t.tv_sec).unwrap_or(0))
                + Duration::from_micros(u64::try_from(t.tv_usec).unwrap_or(0))
        };
        let peak_bytes = u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024;
        Ok(Used { cpu: time(usage.ru_utime) + time(usage.ru_stime), peak_bytes })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// `Launch`: somebody else has taken its status.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().map_err(|e| Error::new(Kind::Launch, format!("cannot wait for a process: {e}")))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.gone {
            // It may have ended by itself; then there is nothing to kill.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
