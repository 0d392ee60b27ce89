//! The line between the pool and a job that runs: the request to stop, which wakes whoever waits, and what
//! others may know about the job meanwhile. Owns no process and no thread.

use super::FailureKind;
use super::process::{Exit, Wake, poll, poll_fd};
use crate::base::failure::{Overrun, Shortage};
use crate::base::ids::{Attempt, TaskRef};
use crate::worker::printed::{Book, Stream, Which};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The control of one running job. The thread that runs the job looks at it; only that thread signals the
/// job's processes, so no other can hit a process id that has been reused.
#[derive(Debug)]
pub struct Control {
    requested: AtomicBool,
    why: Mutex<Option<String>>,
    /// Why it has to end at once, if it has to.
    forced: Mutex<Option<FailureKind>>,
    wake: Arc<Wake>,
    /// Its slot, and when that took it.
    begun: (u32, Instant),
    pid: AtomicI32,
    base: AtomicU64,
    bound: AtomicU64,
    capture: Mutex<Option<RawFd>>,
    announce: Mutex<Option<Announce>>,
    away: Option<(TaskRef, Attempt, Arc<AwayNews>)>,
    /// Where what it prints is kept.
    book: OnceLock<Arc<Book>>,
    /// How its process ended, if it had one of its own.
    exit: OnceLock<Exit>,
}

/// Jobs that wait for other tasks, or go on: news for whoever hands out slots.
pub(super) struct AwayNews {
    list: Mutex<Vec<(TaskRef, Attempt, bool)>>,
    notify: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for AwayNews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AwayNews")
    }
}

impl AwayNews {
    pub(super) fn new(notify: Arc<dyn Fn() + Send + Sync>) -> AwayNews {
        AwayNews { list: Mutex::default(), notify }
    }

    pub(super) fn take(&self) -> Vec<(TaskRef, Attempt, bool)> {
        std::mem::take(&mut *lock(&self.list))
    }
}

/// Tells somebody else of a memory file.
struct Announce(Box<dyn Fn(&std::fs::File) + Send + Sync>);

impl std::fmt::Debug for Announce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Announce")
    }
}

impl Control {
    /// A control of its own, e.g. for running a job outside a pool.
    pub fn new() -> std::io::Result<Control> {
        Ok(Control::with_wake(Arc::new(Wake::new()?), (0, Instant::now())))
    }

    pub(super) fn with_wake(wake: Arc<Wake>, begun: (u32, Instant)) -> Control {
        Control {
            requested: AtomicBool::new(false),
            why: Mutex::new(None),
            forced: Mutex::new(None),
            wake,
            begun,
            pid: AtomicI32::new(0),
            base: AtomicU64::new(0),
            bound: AtomicU64::new(0),
            capture: Mutex::new(None),
            announce: Mutex::new(None),
            away: None,
            book: OnceLock::new(),
            exit: OnceLock::new(),
        }
    }

    /// The control of a job of a pool, which hears when it waits for others; its slot took it then.
    pub(super) fn of_job(
        (task, attempt): (TaskRef, Attempt),
        wake: Arc<Wake>,
        begun: (u32, Instant),
        news: Arc<AwayNews>,
    ) -> Control {
        Control { away: Some((task, attempt, news)), ..Control::with_wake(wake, begun) }
    }

    /// The job's slot, and when that took it: perhaps with others, which it runs one after the other.
    pub(in crate::worker) fn begun(&self) -> (u32, Instant) {
        self.begun
    }

    /// The job begins to wait for other tasks, or goes on: meanwhile its slots are of use to others.
    pub(super) fn set_away(&self, away: bool) {
        if let Some((task, attempt, news)) = &self.away {
            lock(&news.list).push((*task, *attempt, away));
            (news.notify)();
        }
    }

    /// What the job prints is to be kept there.
    pub(in crate::worker) fn set_book(&self, book: &Arc<Book>) {
        // The first one stays.
        let _ = self.book.set(book.clone());
    }

    /// Where one of its streams is kept, if it is.
    pub(in crate::worker) fn stream(&self, which: Which) -> Option<Stream> {
        let (task, attempt, _) = self.away.as_ref()?;
        Some(self.book.get()?.stream((*task, *attempt), which))
    }

    /// Notes how the process ended that was the job's alone.
    pub(super) fn set_exit(&self, exit: Exit) {
        // The first one stays.
        let _ = self.exit.set(exit);
    }

    /// How the process ended that was the job's alone.
    pub(in crate::worker) fn exit(&self) -> Option<Exit> {
        self.exit.get().copied()
    }

    /// Asks the job to stop. `why` becomes the failure's reason; only the first one counts.
    pub fn cancel(&self, why: Option<String>) {
        let mut reason = lock(&self.why);
        if !self.requested.swap(true, Ordering::AcqRel) {
            *reason = why;
            self.wake.set();
        }
    }

    /// Ends the job at once, because memory has run out. What was asked for before stands.
    pub fn end_for_memory(&self, shortage: Shortage) {
        self.force(FailureKind::Memory(Box::new(shortage)));
    }

    /// Ends the job at once, because it has taken more memory than it may. What was asked for before stands.
    pub fn end_for_overrun(&self, overrun: Overrun) {
        self.force(FailureKind::Overrun(overrun));
    }

    fn force(&self, kind: FailureKind) {
        let mut noted = lock(&self.forced);
        if !self.requested.swap(true, Ordering::AcqRel) {
            *noted = Some(kind);
            self.wake.set();
        }
    }

    /// Whether the job is to end at once, not to be asked kindly.
    pub fn is_forced(&self) -> bool {
        lock(&self.forced).is_some()
    }

    /// What the job fails with when it is ended by request.
    pub fn verdict(&self) -> FailureKind {
        lock(&self.forced).clone().unwrap_or(FailureKind::Cancelled)
    }

    /// Whether the job is to stop.
    pub fn is_cancelled(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Why the job is to stop, where that was said.
    pub fn reason(&self) -> Option<String> {
        lock(&self.why).clone()
    }

    /// Sleeps, but not beyond a request to stop. Whether there is one.
    pub fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.is_cancelled() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            if poll(&mut [poll_fd(self.wake.fd(), libc::POLLIN)], left) {
                self.clear_stale_wake();
            }
        }
        true
    }

    /// Process id of the job's main process, which is also its process group; `None` before and after it
    /// runs. For reading statistics only: it may have ended meanwhile.
    pub fn pid(&self) -> Option<i32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|&pid| pid > 0)
    }

    /// Of what its process occupies, bytes that it had before the job began.
    pub fn base_bytes(&self) -> u64 {
        self.base.load(Ordering::Relaxed)
    }

    /// Anonymous memory beyond which the job is to be ended, bytes, where that is watched.
    pub fn bound_bytes(&self) -> Option<u64> {
        Some(self.bound.load(Ordering::Relaxed)).filter(|&bytes| bytes > 0)
    }

    /// Bytes that the job's output has taken in a memory file so far.
    pub fn captured_bytes(&self) -> u64 {
        let capture = lock(&self.capture);
        let Some(fd) = *capture else { return 0 };
        // SAFETY: whoever closes the descriptor clears it here before, and waits for this lock to do so.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        nix::sys::stat::fstat(fd).map_or(0, |s| u64::try_from(s.st_size).unwrap_or(0))
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.fd()
    }

    /// Forgets a wake-up that was meant for the slot's previous job. The flag is set before the wake-up, so
    /// a request that comes in between is seen when the flag is read next.
    pub(super) fn clear_stale_wake(&self) {
        if !self.is_cancelled() {
            self.wake.clear();
        }
    }

    pub(super) fn set_pid(&self, pid: i32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Says what its process, an executor that runs one job after the other, occupied before.
    pub(super) fn set_base(&self, bytes: u64) {
        self.base.store(bytes, Ordering::Relaxed);
    }

    /// Lets it be watched: it may have so many bytes of anonymous memory.
    pub(in crate::worker) fn set_bound(&self, bytes: u64) {
        self.bound.store(bytes, Ordering::Relaxed);
    }

    /// Has memory files told to somebody else as soon as they are written to.
    pub(super) fn announce_captures(&self, announce: impl Fn(&std::fs::File) + Send + Sync + 'static) {
        *lock(&self.announce) = Some(Announce(Box::new(announce)));
    }

    /// Names the memory file that is being written; `None` before it is closed.
    pub(super) fn set_capture(&self, file: Option<&std::fs::File>) {
        if let (Some(file), Some(announce)) = (file, &*lock(&self.announce)) {
            (announce.0)(file);
        }
        *lock(&self.capture) = file.map(AsRawFd::as_raw_fd);
    }
}

/// The content of a mutex, even if a thread panicked while it held it: none of ours leaves half a change.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelling_wakes_and_keeps_the_first_reason() {
        let control = Control::new().unwrap();
        assert!(!control.sleep(Duration::from_millis(1)));
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| control.cancel(Some("first".into())));
            assert!(control.sleep(Duration::from_secs(60)));
        });
        control.cancel(Some("second".into()));
        assert_eq!(control.reason().as_deref(), Some("first"));
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
