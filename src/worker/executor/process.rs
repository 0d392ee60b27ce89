//! One started process and its group: waiting, signalling, resource use. Owns the process id: only through
//! this value is it signalled or reaped, so that a reused id is never hit. Also the descriptor that wakes a
//! waiting thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Between two questions after a stuck process of somebody else.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// What the kernel counts a process's reads and writes in, bytes.
const BLOCK: u64 = 512;

/// How a process ended and what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) struct Exit {
    /// The exit status, or the signal that ended it.
    pub end: Result<i32, i32>,
    /// User and system time, its waited-for descendants included.
    pub cpu: Duration,
    /// Of that, in the kernel.
    pub system: Duration,
    /// Largest resident size of it or one of them, bytes.
    pub max_rss_bytes: u64,
    /// Bytes that they have read from storage, and written there.
    pub storage: (u64, u64),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.end {
            Ok(code) => write!(f, "exit status {code}"),
            Err(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// Whoever is the parent of processes that are not our children.
pub(in crate::worker) trait Parent: std::fmt::Debug + Send + Sync {
    /// How one of its children ended: its exit status, or the signal that ended it; `None` as long as it
    /// lives.
    ///
    /// # Errors
    /// The parent has gone.
    fn end_of(&self, pid: i32) -> io::Result<Option<Result<i32, i32>>>;
}

/// A process that leads its own group.
#[derive(Debug)]
pub(super) struct Process {
    pid: i32,
    /// Who reaps it, if it is no child of ours.
    parent: Option<Arc<dyn Parent>>,
    /// Readable when the process has ended; kernels before 5.3 have none.
    pidfd: Option<OwnedFd>,
    reaped: bool,
}

impl Process {
    /// Takes over a child that was just started as the leader of a group.
    pub fn of(pid: i32) -> Process {
        // SAFETY: a plain system call; the child has not been reaped, so the id is its own.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0);
        // SAFETY: the descriptor was just made and nobody else owns it.
        let pidfd = fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Process { pid, parent: None, pidfd, reaped: false }
    }

    /// Looks after another one's child, the leader of a group.
    pub fn adopt(pid: i32, parent: Arc<dyn Parent>) -> Process {
        Process { parent: Some(parent), ..Process::of(pid) }
    }

    /// Process and group id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Becomes readable when the process ends, if the kernel can do that.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Lets the kernel choose this process rather than the worker when memory runs out.
    pub fn raise_oom_score(&self) {
        // It may have ended already, and containers may forbid it: then the kernel's own choice stands.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", self.pid), "500");
    }

    /// Reaps the process if it has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        self.wait(libc::WNOHANG)
    }

    /// This process, for somebody else to look after; nothing is left to do here.
    pub fn take(&mut self) -> Process {
        let (pid, parent, pidfd) = (self.pid, self.parent.take(), self.pidfd.take());
        let reaped = std::mem::replace(&mut self.reaped, true);
        Process { pid, parent, pidfd, reaped }
    }

    /// Waits until the process has ended and reaps it, however long that takes.
    pub fn wait_for_ever(mut self) {
        let others = self.parent.is_some();
        while matches!(self.wait(0), Ok(None)) {
            if others {
                std::thread::sleep(ASK_PAUSE);
            }
        }
    }

    /// Asks the parent, or the kernel if that has gone.
    fn ask(&mut self, parent: &dyn Parent) -> io::Result<Option<Exit>> {
        let end = match parent.end_of(self.pid) {
            Ok(Some(end)) => end,
            Ok(None) => return Ok(None),
            Err(_) if self.has_ended() == Some(true) => Err(libc::SIGKILL),
            Err(_) if self.pidfd.is_some() => return Ok(None),
            Err(error) => {
                self.reaped = true;
                return Err(error);
            }
        };
        self.reaped = true;
        let (cpu, system) = (Duration::ZERO, Duration::ZERO);
        Ok(Some(Exit { end, cpu, system, max_rss_bytes: 0, storage: (0, 0) }))
    }

    /// Whether it runs no more, if the kernel can tell.
    fn has_ended(&self) -> Option<bool> {
        let fd = self.pidfd.as_ref()?;
        Some(poll(&mut [poll_fd(fd.as_fd(), libc::POLLIN)], Duration::ZERO))
    }

    fn wait(&mut self, options: i32) -> io::Result<Option<Exit>> {
        if let Some(parent) = self.parent.clone() {
            return self.ask(&*parent);
        }
        let mut status = 0;
        // SAFETY: all zeroes is a valid rusage, and both pointers are valid for the call.
        let (got, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::wait4(self.pid, &mut status, options, &mut usage), usage)
        };
        if got == 0 {
            return Ok(None);
        }
        if got < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                return Ok(None);
            }
            // Whoever took its status also gave its id free: signal nothing any more.
            self.reaped = true;
            return Err(error);
        }
        self.reaped = true;
        let end = if libc::WIFSIGNALED(status) {
            Err(libc::WTERMSIG(status))
        } else {
            Ok(libc::WEXITSTATUS(status))
        };
        let time = |t: libc::timeval| {
            Duration::from_secs(u64::try_from(t.tv_sec).unwrap_or(0))
                + Duration::from_micros(u64::try_from(t.tv_usec).unwrap_or(0))
        };
        let max_rss_bytes = u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024;
        let blocks = |n: libc::c_long| u64::try_from(n).unwrap_or(0).saturating_mul(BLOCK);
        let storage = (blocks(usage.ru_inblock), blocks(usage.ru_oublock));
        let system = time(usage.ru_stime);
        Ok(Some(Exit { end, cpu: time(usage.ru_utime) + system, system, max_rss_bytes, storage }))
    }

    /// Whether processes of the group are alive, or the main process not yet reaped.
    ///
    /// Once the main process is reaped, the id stays taken as long as one process is in the group. So if the
    /// group exists while no *process* has the id, it is ours; a group with a leader is somebody else's.
    pub fn group_is_alive(&self) -> bool {
        // Another one's child may have been reaped already, without our knowing.
        let own = !self.reaped && (self.parent.is_none() || self.has_ended() != Some(true));
        // SAFETY: signal 0 only asks.
        unsafe { own || (libc::kill(-self.pid, 0) == 0 && libc::kill(self.pid, 0) != 0) }
    }

    /// Sends a signal to every process of the group. Stopped ones are continued so that they notice.
    pub fn signal_group(&self, signal: i32) {
        if !self.group_is_alive() {
            return;
        }
        // SAFETY: plain system calls; the group is ours, as just found.
        unsafe {
            libc::kill(-self.pid, signal);
            libc::kill(-self.pid, libc::SIGCONT);
        }
    }

    /// What the kernel says the process is waiting for, e.g. `D` (uninterruptible) and the place.
    pub fn state(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", self.pid));
        let stat = read("stat").unwrap_or_default();
        let letter = stat.rsplit(") ").next().and_then(|s| s.chars().next()).unwrap_or('?');
        let place = read("wchan").ok().filter(|p| !p.is_empty() && p != "0");
        format!("state {letter}{}", place.map(|p| format!(" in {p}")).unwrap_or_default())
    }
}

/// A descriptor that another thread can make readable.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub fn new() -> io::Result<Wake> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        Ok(Wake(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes it readable. Stays so until `clear`.
    pub fn set(&self) {
        // The only way to fail is that it is readable already.
        let _ = nix::unistd::write(&self.0, &1u64.to_ne_bytes());
    }

    pub fn clear(&self) {
        let _ = nix::unistd::read(&self.0, &mut [0; 8]);
    }
}

pub(super) fn poll_fd(fd: BorrowedFd<'_>, events: i16) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }
}

/// Waits until one of the descriptors is ready; whether one is. May return earlier than `time` without.
pub(super) fn poll(fds: &mut [libc::pollfd], time: Duration) -> bool {
    // Rounded up: a wait of 0.4 ms must not become a busy loop.
    let ms = i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: the pointer and the length are those of the slice.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, ms) > 0 }
}
