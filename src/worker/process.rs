//! What a process of hpcdag does to itself and to the processes below it: limits, parent-death signal,
//! subreaper, finding and killing what it left running. Owns no policy: the nanny and the worker decide when.
//! Nothing here is called in a program that embeds hpcdag as a library.

use crate::base::error::{Error, Kind, Result};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, getpid, getppid};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The signal that a worker gets when its nanny has died without a farewell. The worker kills its tasks and
/// leaves at once. Nobody sends this one by hand or from a terminal, and it ends a worker that has no handler
/// yet.
pub const NANNY_GONE: Signal = Signal::SIGPWR;

/// How long processes that were killed are waited for. One that hangs in the kernel is left behind after
/// that.
const REAP_PATIENCE: Duration = Duration::from_secs(5);

/// A line of the process table: what `/proc/PID/stat` says about descent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessEntry {
    /// The process.
    pub pid: i32,
    /// Its state's letter; `Z` has ended and was not yet reaped.
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
}

/// Processors of the machine that are switched on, whoever may use them.
pub fn online_processors() -> u32 {
    // SAFETY: a plain query without pointers.
    let found = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(found).unwrap_or(1).max(1)
}

/// Asks the kernel for [`NANNY_GONE`] when the thread that started this process ends, and makes sure that
/// `expected_parent` had not ended before. To be called on the main thread, first thing.
///
/// # Errors
/// `Cancelled` when the parent is gone already: the caller leaves.
pub fn die_with_parent(expected_parent: i32) -> Result<()> {
    prctl::set_pdeathsig(NANNY_GONE).map_err(|e| Error::os("cannot set the parent-death signal", e))?;
    if getppid().as_raw() != expected_parent {
        return Err(Error::new(Kind::Cancelled, format!("the nanny (process {expected_parent}) is gone")));
    }
    Ok(())
}

/// Makes orphans among this process's descendants its own children, so that it can find and end them.
///
/// # Errors
/// When the kernel refuses (it has known this since 3.4).
pub fn become_subreaper() -> Result<()> {
    prctl::set_child_subreaper(true).map_err(|e| Error::os("cannot become subreaper", e))
}

/// Keeps other processes of the same user from reading this one's memory, where keys are. For the scheduler.
/// Workers stay readable: tasks open their inputs through the worker's `/proc/PID/fd`.
///
/// # Errors
/// When the kernel refuses.
pub fn forbid_inspection() -> Result<()> {
    prctl::set_dumpable(false).map_err(|e| Error::os("cannot make the process undumpable", e))
}

/// Turns core files off for this process and those it starts: a core of a worker with many gigabytes of
/// results fills a home directory.
///
/// # Errors
/// When the kernel refuses.
pub fn forbid_core_files() -> Result<()> {
    // The hard limit stays: a task that wants a core file can ask for it with `ulimit -c`.
    let hard = getrlimit(Resource::RLIMIT_CORE).map(|(_, hard)| hard);
    hard.and_then(|hard| setrlimit(Resource::RLIMIT_CORE, 0, hard))
        .map_err(|e| Error::os("cannot turn core files off", e))
}

/// Raises the limit of open files to the most that is allowed, and returns it. Results in memory files and
/// connections each take one, and the usual soft limit is 1024.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_open_files() -> Result<u64> {
    let what = "cannot raise the limit of open files";
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| Error::os(what, e))?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|e| Error::os(what, e))?;
    }
    Ok(hard)
}

/// Sends a signal to one process. False if there is no such process any more.
///
/// # Errors
/// When it is somebody else's process.
pub fn send_signal(pid: i32, signal: Signal) -> Result<bool> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(e) => Err(Error::os(&format!("cannot send {signal} to process {pid}"), e)),
    }
}

/// Sends a signal to a whole process group. False if nobody is in it any more.
///
/// # Errors
/// When it is somebody else's group, or not a group that anybody may mean (0, 1, negative, our own).
pub fn send_signal_to_group(group: i32, signal: Signal) -> Result<bool> {
    if group <= 1 || group == getpgrp().as_raw() {
        return Err(Error::new(Kind::Internal, format!("refused to send {signal} to process group {group}")));
    }
    match killpg(Pid::from_raw(group), signal) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(e) => Err(Error::os(&format!("cannot send {signal} to process group {group}"), e)),
    }
}

/// A signal's number as people know it: `SIGKILL`, or `signal 40` for one without a name.
pub fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| s.as_str().to_owned())
}

/// How a process ended, in words: `exit code 3`, `SIGSEGV`.
pub fn describe_end(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exit code {code}"),
        WaitStatus::Signaled(_, signal, true) => format!("{signal} (core dumped)"),
        WaitStatus::Signaled(_, signal, false) => signal.to_string(),
        other => format!("{other:?}"),
    }
}

/// Parses the content of `/proc/PID/stat`. The second field is the program's name in parentheses and may
/// contain anything, so the rest is found from the last parenthesis.
fn parse_stat(pid: i32, stat: &[u8]) -> Option<ProcessEntry> {
    let end_of_name = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some(ProcessEntry { pid, state, parent, group })
}

/// All processes that this one can see. `/proc/PID/task/TID/children` would be cheaper and is missing from
/// many kernels.
fn process_table() -> Vec<ProcessEntry> {
    let Ok(proc) = std::fs::read_dir("/proc") else { return Vec::new() };
    proc.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| parse_stat(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// The living processes below `root`, parents before children.
fn descendants_in(table: &[ProcessEntry], root: i32) -> Vec<ProcessEntry> {
    let mut children: BTreeMap<i32, Vec<ProcessEntry>> = BTreeMap::new();
    for entry in table {
        children.entry(entry.parent).or_default().push(*entry);
    }
    let mut found = Vec::new();
    // Each parent's list is taken out as it is visited: a table read while processes come and go may hold a
    // circle.
    let mut next = children.remove(&root).unwrap_or_default();
    while let Some(entry) = next.pop() {
        next.extend(children.remove(&entry.pid).unwrap_or_default());
        if entry.state != 'Z' && entry.pid != root {
            found.push(entry);
        }
    }
    found
}

/// The living processes below this one.
pub fn descendants() -> Vec<ProcessEntry> {
    descendants_in(&process_table(), getpid().as_raw())
}

/// SIGKILLs some processes and their groups, except this process's own group as a whole.
fn kill_entries(entries: &[ProcessEntry]) {
    let own_group = getpgrp().as_raw();
    let groups: BTreeSet<i32> =
        entries.iter().map(|e| e.group).filter(|g| *g > 1 && *g != own_group).collect();
    for group in groups {
        // Gone in the meantime is what we want; a set-user-id child is the kernel's to protect.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    for entry in entries {
        let _ = kill(Pid::from_raw(entry.pid), Signal::SIGKILL);
    }
}

/// Whether this process ends at once, and everything below it.
static LEAVING_AT_ONCE: AtomicBool = AtomicBool::new(false);

/// Whether tasks that end from now on were killed because the worker ends: none of that is to be told.
pub fn is_leaving_at_once() -> bool {
    LEAVING_AT_ONCE.load(Ordering::SeqCst)
}

/// SIGKILLs every process below this one, with their process groups, and returns how many were seen. Does not
/// wait for them. For a worker that leaves at once; what escapes by starting processes meanwhile is left to
/// its nanny.
pub fn kill_descendants() -> usize {
    LEAVING_AT_ONCE.store(true, Ordering::SeqCst);
    let found = descendants();
    kill_entries(&found);
    found.len()
}

/// SIGKILLs and reaps all children, then those of their children that this process, as subreaper, inherits,
/// until none is left. Returns how many were killed, and how many could not be ended within a few seconds.
///
/// Only children are signalled, and none is reaped before: their numbers cannot have been given to others.
pub fn end_children() -> (usize, usize) {
    let own = getpid().as_raw();
    let deadline = Instant::now() + REAP_PATIENCE;
    let mut killed = BTreeSet::new();
    let mut pause = Duration::from_millis(1);
    loop {
        if reap().nothing_left {
            return (killed.len(), 0);
        }
        let children: Vec<ProcessEntry> =
            process_table().into_iter().filter(|e| e.parent == own && e.state != 'Z').collect();
        if !children.is_empty() && Instant::now() >= deadline {
            return (killed.len(), children.len());
        }
        kill_entries(&children);
        killed.extend(children.iter().map(|e| e.pid));
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// What [`reap`] found.
pub struct Reaped {
    /// The processes that had ended and how.
    pub ended: Vec<WaitStatus>,
    /// This process has no children at all.
    pub nothing_left: bool,
}

/// Collects all children that have ended, without waiting. For processes that own *all* of their children
/// (the nanny): it takes the exit codes away from whoever else waits.
pub fn reap() -> Reaped {
    let mut ended = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Reaped { ended, nothing_left: false },
            Ok(status) => ended.push(status),
            Err(Errno::EINTR) => {}
            Err(_) => return Reaped { ended, nothing_left: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn entry(pid: i32, parent: i32) -> ProcessEntry {
        ProcessEntry { pid, state: 'S', parent, group: pid }
    }

    #[test]
    fn stat_lines_with_wild_names_parse() {
        let stat = b"77 (a) R 1 (b\xff c) S 12 34 56 0 -1 4194304";
        assert_eq!(parse_stat(77, stat), Some(ProcessEntry { pid: 77, state: 'S', parent: 12, group: 34 }));
        assert_eq!(parse_stat(77, b"77 (cut off"), None);
        assert_eq!(parse_stat(77, b"77 (a) S x 1"), None);
    }

    #[test]
    fn descent_is_followed_and_circles_end() {
        let table = [entry(10, 1), entry(11, 10), entry(12, 11), entry(20, 1), entry(30, 31), entry(31, 30)];
        let mut found: Vec<i32> = descendants_in(&table, 10).iter().map(|e| e.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [11, 12]);
        assert_eq!(descendants_in(&table, 30).iter().map(|e| e.pid).collect::<Vec<_>>(), [31]);
        let dead = [ProcessEntry { state: 'Z', ..entry(11, 10) }];
        assert!(descendants_in(&dead, 10).is_empty());
    }

    #[test]
    fn own_children_are_seen() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let pid = i32::try_from(child.id()).expect("fits");
        assert!(descendants().iter().any(|e| e.pid == pid));
        assert!(send_signal(pid, Signal::SIGKILL).expect("allowed"));
        child.wait().expect("reaped");
        assert!(!descendants().iter().any(|e| e.pid == pid));
        assert!(!send_signal(pid, Signal::SIGKILL).expect("gone"));
    }

    #[test]
    fn groups_that_nobody_means_are_refused() {
        for group in [-1, 0, 1, getpgrp().as_raw()] {
            assert!(send_signal_to_group(group, Signal::SIGKILL).is_err(), "{group}");
        }
    }

    #[test]
    fn limits_are_inherited() {
        forbid_core_files().expect("allowed");
        let hard = raise_open_files().expect("allowed");
        let out = Command::new("sh").args(["-c", "ulimit -c; ulimit -n"]).output().expect("sh starts");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "0");
        assert!(lines[1] == "unlimited" || lines[1] == hard.to_string(), "{lines:?}");
    }

    #[test]
    fn ends_have_names() {
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(40), "signal 40");
        let pid = Pid::from_raw(1);
        assert_eq!(describe_end(WaitStatus::Exited(pid, 3)), "exit code 3");
        assert_eq!(describe_end(WaitStatus::Signaled(pid, Signal::SIGSEGV, false)), "SIGSEGV");
    }
}
