//! A task on its slot thread, from preparation until its files are in place: the worker writes those outputs
//! that it was told to write, and moves in-place ones to their paths, before the attempt counts as finished.
//! Owns these last steps; running is `prepare`'s.

use super::executor::control::Control;
use super::executor::{Clock, Executor, Failure, FailureKind, Identified, Outcome, Told};
use super::families::{Family, Write};
use super::kept;
use super::memory::Parts;
use super::origin::{Limits, Origin};
use super::prepare::{Assignment, Runner};
use super::printed::Book;
use super::profile::Profiler;
use super::python::Python;
use super::python::calls::CallJob;
use super::store::data::{Data, TaskResult};
use crate::base::error::{Error, Kind, Result};
use crate::base::failure;
use crate::base::ids::{Attempt, TaskRef};
use crate::graph::items::Item;
use crate::graph::spec::Action;
use crate::graph::template::Plain;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Signals by which batch systems warn and end jobs: SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGINT, SIGHUP.
const LEAVE_SIGNALS: [i32; 6] =
    [libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGXCPU, libc::SIGINT, libc::SIGHUP];

/// How long the worker may take to notice a signal that a task ended by.
const SIGNAL_PATIENCE: Duration = Duration::from_millis(500);

/// A task to run, with what follows.
pub(super) struct Job {
    /// What to run.
    pub kind: Runnable,
    /// Inputs that should come back into memory: whose, and where among the task's inputs: which edge (0 for
    /// calls), and there.
    pub on_disk: Vec<(TaskRef, usize, usize)>,
    /// Whether it was lined up because it is short.
    pub in_line: bool,
}

/// What a job runs.
pub(super) enum Runnable {
    /// An element of a family.
    Element(Box<Assignment>, Arc<Family>),
    /// A call.
    Call(Box<CallJob>),
}

impl Job {
    /// What it was made from.
    pub(super) fn origin(&self) -> Origin {
        match &self.kind {
            Runnable::Element(assignment, family) => Origin::Element(family.clone(), assignment.index),
            Runnable::Call(job) => Origin::Call(job.call.clone()),
        }
    }

    /// Whether it is a function of this program.
    fn is_native(&self) -> bool {
        match &self.kind {
            Runnable::Element(_, family) => matches!(family.spec().action, Action::Native { .. }),
            Runnable::Call(_) => false,
        }
    }

    /// One of its inputs.
    fn input(&mut self, edge: usize, n: usize) -> &mut Arc<TaskResult> {
        match &mut self.kind {
            Runnable::Element(assignment, _) => &mut assignment.inputs[edge][n].1,
            Runnable::Call(job) => &mut job.inputs[n].result,
        }
    }
}

impl Identified for Job {
    fn id(&self) -> (TaskRef, Attempt) {
        match &self.kind {
            Runnable::Element(assignment, _) => assignment.id(),
            Runnable::Call(job) => (job.task, job.attempt),
        }
    }

    fn is_short(&self) -> bool {
        self.in_line
    }

    fn set_long(&mut self) {
        self.in_line = false;
    }
}

/// Runs jobs: the executor of the worker's pool.
pub(super) struct Finisher {
    runner: Runner,
    python: Arc<Python>,
    memory: Parts,
    /// Inside a batch job: whether a signal has asked the worker to leave.
    signalled: Option<Arc<AtomicBool>>,
    /// Where what tasks print is kept.
    book: Option<Arc<Book>>,
    profiler: Arc<Profiler>,
}

impl Finisher {
    pub(super) fn new(
        runner: Runner,
        python: Arc<Python>,
        memory: Parts,
        signalled: Option<Arc<AtomicBool>>,
        (book, profiler): (Option<Arc<Book>>, Arc<Profiler>),
    ) -> Finisher {
        Finisher { runner, python, memory, signalled, book, profiler }
    }

    /// Whether a task ended because the batch system ends the job, or this worker's part of it. It signals
    /// every process there is, the tasks' as well as the worker's, which may come to know of it only now.
    fn ended_with_job(&self, kind: &FailureKind) -> bool {
        let Some(signalled) = &self.signalled else { return false };
        let signal = match kind {
            FailureKind::Signal(signal) => *signal,
            // A shell's way of saying that its command was ended by a signal.
            FailureKind::Exit(code) => *code - 128,
            _ => return false,
        };
        let patience = if LEAVE_SIGNALS.contains(&signal) { SIGNAL_PATIENCE } else { Duration::ZERO };
        let until = Instant::now() + patience;
        loop {
            if signalled.load(Ordering::Acquire) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A task that ended with the batch job has not failed.
    fn excuse(&self, outcome: &mut Outcome) {
        if let Err(failure) = &mut outcome.result
            && self.ended_with_job(&failure.kind)
        {
            failure.kind = FailureKind::Cancelled;
        }
    }

    /// Brings inputs back into memory where there is room for them; the others are read from disk.
    fn recall(&self, job: &mut Job) -> io::Result<()> {
        for (task, edge, n) in std::mem::take(&mut job.on_disk) {
            let result = job.input(edge, n);
            if self.memory.has_room(result.spilled_bytes(), !result.is_readable_on_disk()) {
                let recalled = Arc::new(result.recall()?);
                let store = &self.memory.store;
                let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                store.recalled(task, result, recalled.clone());
                *result = recalled;
            }
        }
        Ok(())
    }
}

/// What remains to be known of a task when it has run.
struct Finished {
    id: (TaskRef, Attempt),
    key: String,
    index: u32,
    item: Item,
}

impl Executor<Job> for Finisher {
    fn together(&self, job: &Job) -> Option<(usize, u32)> {
        match &job.kind {
            // What needs an object of one process waits for that one.
            Runnable::Call(call) if job.on_disk.is_empty() && call.pins().next().is_none() => {
                self.python.together(call)
            }
            _ => None,
        }
    }

    fn run_all(
        &self,
        jobs: Vec<Job>,
        controls: &[Arc<Control>],
        tell: &mut dyn FnMut(Told<Job>),
    ) -> Vec<(usize, Job)> {
        if let Some(book) = &self.book {
            controls.iter().for_each(|control| control.set_book(book));
        }
        let call = |job: Job| match job.kind {
            Runnable::Call(call) => Some(*call),
            Runnable::Element(..) => None,
        };
        // `together` lets in nothing else.
        let calls = jobs.into_iter().filter_map(call).collect();
        let job = |(place, call)| {
            (place, Job { kind: Runnable::Call(Box::new(call)), on_disk: Vec::new(), in_line: true })
        };
        let mut tell = |told: Told<CallJob>| match told {
            Told::Ended(mut ended) => {
                ended.iter_mut().for_each(|(_, outcome)| self.excuse(outcome));
                tell(Told::Ended(ended));
            }
            Told::Unbegun(back) => tell(Told::Unbegun(back.into_iter().map(job).collect())),
        };
        self.python.run_all(calls, controls, &mut tell).into_iter().map(job).collect()
    }

    fn run(&self, mut job: Job, control: &Control) -> Outcome {
        // Functions of this program print nothing.
        if !job.is_native() {
            self.book.iter().for_each(|book| control.set_book(book));
        }
        if let Err(error) = self.recall(&mut job) {
            return Outcome::failed(Failure::new(FailureKind::Prepare(error.to_string())));
        }
        let (assignment, family) = match job.kind {
            Runnable::Element(assignment, family) => (*assignment, family),
            Runnable::Call(job) => {
                let mut outcome = self.python.run(*job, control);
                self.excuse(&mut outcome);
                return outcome;
            }
        };
        let (key, item) = match family.writes.is_empty() {
            true => (String::new(), Item::None),
            false => (assignment.key.clone(), assignment.item.clone()),
        };
        let finished = Finished { id: assignment.id(), key, index: assignment.index, item };
        if let Some(result) = kept::result(&assignment) {
            let failed = |e: Error| Failure::new(FailureKind::Prepare(e.to_string()));
            return Clock::start().outcome(result.map_err(failed), Duration::ZERO, 0);
        }
        let mut outcome = self.runner.run(assignment, control);
        if let Some(exit) = control.exit() {
            self.profiler.command(finished.id.0.run, &family.spec().name, &exit);
        }
        self.excuse(&mut outcome);
        let Ok(result) = &outcome.result else { return outcome };
        let unpublished = std::mem::take(&mut outcome.unpublished);
        if control.is_cancelled() {
            // Too late to be accepted: another attempt may be writing the same files.
            let mut failure = Failure::new(control.verdict());
            failure.reason = control.reason();
            outcome.result = Err(failure);
            return outcome;
        }
        let publish = || -> Result<()> {
            for output in unpublished {
                let path = output.temporary().to_path_buf();
                output.publish().map_err(|e| Error::file("cannot move into place", &path, &e))?;
            }
            family.writes.iter().try_for_each(|write| finished.write(write, result, &family))
        };
        if let Err(error) = publish() {
            outcome.result = Err(Failure::new(FailureKind::Result(error.to_string())));
        }
        outcome
    }
}

impl Finished {
    /// Writes one part of the result to its file.
    fn write(&self, write: &Write, result: &TaskResult, family: &Family) -> Result<()> {
        let Some(data) = result.find_part(&write.part) else {
            let what = if write.part.is_empty() { "stdout" } else { write.part.as_str() };
            return Err(Error::new(Kind::Graph, format!("{} has no {what} to be written", self.key)));
        };
        if write.skip_empty && data.is_empty() {
            return Ok(());
        }
        let context = Plain { item: &self.item, index: self.index, key: &self.key };
        let spec = family.spec();
        let path = spec.base_dir.join(write.template.render(&context)?);
        let (task, attempt) = self.id;
        let Some(name) = path.file_name() else {
            return Err(Error::new(Kind::Graph, format!("{} is no path of a file", path.display())));
        };
        let unique = format!(".hpcdag-{}-{}-{}.{}-", task.run, task.index, attempt.epoch, attempt.n);
        let temporary = path.with_file_name(unique + &name.to_string_lossy());
        let written = put(data, &temporary, 0o666 & !spec.umask).and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|error| {
            // What is left of it is of no use; the error that counts is the first one.
            let _ = fs::remove_file(&temporary);
            Error::file("cannot write", &path, &error)
        })
    }
}

fn put(data: &Data, path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = File::create(path)?;
    match data {
        Data::Heap(bytes) => file.write_all(bytes)?,
        Data::File(_) | Data::Spilled(_) | Data::InPlace { .. } => {
            io::copy(&mut data.reopen()?, &mut file)?;
        }
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// An executor's failure as it travels. `limits` are those that it may have run into.
pub(super) fn to_wire(failure: Failure, limits: Limits) -> failure::Failure {
    use failure::FailureKind as Wire;
    let kind = match failure.kind {
        FailureKind::Exit(code) => Wire::Exit(code),
        FailureKind::Signal(signal) => Wire::Signal(signal),
        FailureKind::Spawn(what) => Wire::Spawn(what),
        FailureKind::Prepare(what) => Wire::Prepare(what),
        FailureKind::Inputs(what) => Wire::Inputs(what),
        FailureKind::TimeLimit => Wire::TimeLimit(limits.time_ms.unwrap_or(0)),
        FailureKind::OutputTooLarge => Wire::OutputTooLarge(limits.output.unwrap_or(0)),
        FailureKind::Native(what) => Wire::Native(what),
        FailureKind::Raised(raised) => Wire::Raised(raised),
        FailureKind::Cancelled => Wire::Cancelled,
        FailureKind::Memory(shortage) => Wire::Memory(shortage),
        FailureKind::Overrun(overrun) => Wire::Overrun(overrun),
        FailureKind::MissingOutput(what) | FailureKind::Result(what) => Wire::Result(what),
    };
    failure::Failure {
        kind,
        command: failure.command,
        stderr_tail: String::from_utf8_lossy(&failure.stderr_tail).into_owned(),
        reason: failure.reason,
    }
}
