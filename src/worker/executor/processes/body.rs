//! The process of an executor, or of several: each of its threads is an executor by itself, with a connection
//! of its own. Owns the process, how it ended, and who of those that were in it then is to blame.

use crate::worker::executor::control::lock;
use crate::worker::executor::process::{Exit, Process};
use crate::worker::executor::streams::Tail;
use crate::worker::store::pinned::{Home, Living};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// A process, which ends with the last of its executors.
#[derive(Debug)]
pub(in crate::worker) struct Body {
    pid: i32,
    process: Mutex<Process>,
    /// How it ended, once it was reaped.
    exit: OnceLock<Exit>,
    home: Living,
    threads: u32,
    /// How many of its threads run something.
    busy: AtomicU32,
    /// How many did when it was found to have ended.
    had: OnceLock<u32>,
    /// Somebody has ended it for what one of them ran.
    killed: AtomicBool,
    /// What several threads print past Python's streams.
    loose: Option<Mutex<Tail>>,
    /// Its anonymous memory when it had started, bytes.
    pub(super) started_with: AtomicU64,
    /// The same when it was looked at last.
    pub(super) occupied: AtomicU64,
    /// How many tasks it was given.
    pub(super) tasks: AtomicU64,
}

/// What the end of a process means for what one of its threads ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// Nobody else was there.
    This,
    /// It was ended for another one.
    Other,
    /// One of several: nobody knows which.
    AnyOf,
}

impl Body {
    pub(super) fn new(process: Process, threads: u32, loose: Option<Tail>) -> Body {
        let home = Living::default();
        home.home().set_threads(threads);
        Body {
            pid: process.pid(),
            process: Mutex::new(process),
            exit: OnceLock::new(),
            home,
            threads,
            busy: AtomicU32::new(0),
            had: OnceLock::new(),
            killed: AtomicBool::new(false),
            loose: loose.map(|mut tail| {
                tail.record_later();
                Mutex::new(tail)
            }),
            started_with: AtomicU64::new(0),
            occupied: AtomicU64::new(0),
            tasks: AtomicU64::new(0),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// How many executors it was started with.
    pub(in crate::worker) fn threads(&self) -> u32 {
        self.threads
    }

    pub(super) fn home(&self) -> &Arc<Home> {
        self.home.home()
    }

    /// One of its threads begins to run something.
    pub(super) fn begin(&self) {
        self.busy.fetch_add(1, Ordering::AcqRel);
    }

    /// One of its threads has nothing to run any more.
    pub(super) fn end(&self) {
        self.busy.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many of its threads run something.
    pub(in crate::worker) fn busy(&self) -> u32 {
        self.busy.load(Ordering::Acquire)
    }

    /// How it ended, if it was seen to.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.exit.get().copied()
    }

    /// Whether it is known to have ended, or will at once.
    pub(in crate::worker) fn is_over(&self) -> bool {
        self.exit.get().is_some() || self.had.get().is_some() || self.killed.load(Ordering::Acquire)
    }

    /// Reaps it if it has ended; how it did.
    ///
    /// # Errors
    /// It is somebody else's to reap.
    pub(super) fn try_wait(&self) -> std::io::Result<Option<Exit>> {
        let mut process = lock(&self.process);
        if let Some(exit) = self.exit() {
            return Ok(Some(exit));
        }
        let Some(exit) = process.try_wait()? else { return Ok(None) };
        let _ = self.exit.set(exit);
        drop(process);
        // Whoever needs what lived in it need not wait until its last executor is forgotten.
        self.home().end();
        Ok(Some(exit))
    }

    /// Ends it for what one of its threads runs; the others are not to blame.
    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.signal_group();
    }

    /// Ends it, and what its tasks have started.
    pub(super) fn signal_group(&self) {
        lock(&self.process).signal_group(libc::SIGKILL);
    }

    /// One of its threads has found that it ended by itself: is what that ran to blame?
    pub(super) fn blame(&self) -> Blame {
        let had = *self.had.get_or_init(|| self.busy());
        match (self.killed.load(Ordering::Acquire), had) {
            (true, _) => Blame::Other,
            (false, 0 | 1) => Blame::This,
            (false, _) => Blame::AnyOf,
        }
    }

    /// For waiting until something is printed past Python's streams.
    pub(super) fn loose_fd(&self) -> RawFd {
        self.loose.as_ref().map_or(-1, |tail| lock(tail).fd().map_or(-1, |fd| fd.as_raw_fd()))
    }

    /// Takes what was printed so: it is counted as that of whoever looks first, which is right where one
    /// thread runs something.
    pub(super) fn take_loose(&self, into: &mut Tail) {
        if let Some(tail) = &self.loose {
            let said = lock(tail).take_all();
            into.add_aside(&said);
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // What a task has left in its group goes with it.
        process.signal_group(libc::SIGKILL);
        if self.exit.get().is_none() && !matches!(process.try_wait(), Ok(Some(_)) | Err(_)) {
            let process = process.take();
            let reaper = std::thread::Builder::new().name("reaper".into());
            if let Err(error) = reaper.spawn(move || process.wait_for_ever()) {
                tracing::warn!("a stuck executor will stay a zombie: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    /// A process with three threads of which so many run something.
    #[expect(clippy::zombie_processes, reason = "its `Process` reaps it")]
    fn body(busy: u32) -> Body {
        let child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let body = Body::new(Process::of(i32::try_from(child.id()).unwrap()), 3, None);
        (0..busy).for_each(|_| body.begin());
        body
    }

    #[test]
    fn the_only_one_in_it_is_to_blame_and_of_several_all_are_suspects() {
        let alone = body(1);
        assert_eq!((alone.is_over(), alone.blame(), alone.is_over()), (false, Blame::This, true));
        let two = body(2);
        assert_eq!(two.blame(), Blame::AnyOf);
        two.end();
        // The second one hears of it when the first has left.
        assert_eq!(two.blame(), Blame::AnyOf);
    }

    #[test]
    fn those_beside_one_that_was_ended_are_not_to_blame() {
        let two = body(2);
        two.kill();
        assert_eq!(two.blame(), Blame::Other);
        assert!(two.is_over());
        let begin = std::time::Instant::now();
        while two.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < std::time::Duration::from_secs(30));
            std::thread::yield_now();
        }
        assert_eq!(two.exit().unwrap().end, Err(libc::SIGKILL));
        assert!(two.home().has_ended());
    }
}
