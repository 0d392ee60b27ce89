//! What a worker and all processes under it occupy, as `/proc` shows it. Owns what counts: anonymous memory,
//! once where processes share it since a fork, and shared memory that is not a result of ours. (Pages of
//! files are the kernel's to take back; results are counted exactly elsewhere.)

use crate::worker::process;
use crate::worker::store::memfile::NAME_PREFIX;
use rustc_hash::{FxHashMap, FxHashSet};
use std::fs;

/// Shared memory below this is not looked at closely, bytes: every process has a little.
const SHARED_BYTES_MIN: u64 = 1 << 20;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Bytes that it occupies and that are no results.
    pub bytes: u64,
}

/// What one look at all processes found.
#[derive(Clone, Debug, Default)]
pub(in crate::worker) struct Sample {
    /// What the worker process itself occupies, results left out, bytes.
    pub own: u64,
    /// The processes under it.
    pub processes: Vec<Process>,
    /// Memory that processes share since a fork was counted once.
    pub exact: bool,
    /// Trees that were counted exactly if they have more than so many bytes.
    bounds: Vec<(i32, u64)>,
}

impl Sample {
    /// What this process and those under it occupy.
    #[cfg(test)]
    pub fn of(own: u64, processes: Vec<Process>) -> Sample {
        Sample { own, processes, exact: true, bounds: Vec::new() }
    }

    /// Bytes of a process and of all under it, if they are more than these and that is exact.
    pub fn beyond(&self, root: i32, bound: u64) -> Option<u64> {
        let bytes = self.below(root);
        (bytes > bound && self.bounds.contains(&(root, bound))).then_some(bytes)
    }

    /// Bytes of all processes.
    pub fn total(&self) -> u64 {
        self.own + self.processes.iter().map(|p| p.bytes).sum::<u64>()
    }

    /// Bytes of a process and of all under it.
    pub fn below(&self, root: i32) -> u64 {
        let tree = self.tree(root);
        self.processes.iter().filter(|p| tree.contains(&p.pid)).map(|p| p.bytes).sum()
    }

    /// A process and all under it.
    pub fn tree(&self, root: i32) -> FxHashSet<i32> {
        let (mut next, mut seen) = (vec![root], FxHashSet::default());
        while let Some(pid) = next.pop() {
            // A table read while processes come and go may hold a circle.
            if seen.insert(pid) {
                next.extend(self.processes.iter().filter(|p| p.parent == pid).map(|p| p.pid));
            }
        }
        seen
    }

    /// Counts memory that processes share since a fork once, in those trees that have more than their bounds.
    pub fn be_exact_beyond(&mut self, bounds: &[(i32, u64)]) {
        self.bounds.extend_from_slice(bounds);
        for (root, bound) in bounds {
            if self.below(*root) > *bound {
                let tree = self.tree(*root);
                let (mut inside, others) = self.processes.iter().partition(|p| tree.contains(&p.pid));
                count_forks_once(&mut inside);
                self.processes = others;
                self.processes.append(&mut inside);
            }
        }
    }
}

/// Reads `/proc` again and again.
#[derive(Debug, Default)]
pub(in crate::worker) struct Sampler {
    /// Whether shared memory counts in each process that maps it, results of ours included: as whoever sums
    /// the processes' resident memory sees it.
    pub every_mapping: bool,
    /// By process: resident shared memory when it was last looked at closely, and how much is not ours.
    shared: FxHashMap<i32, (u64, u64)>,
}

/// What `/proc/PID/status` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Status {
    parent: i32,
    zombie: bool,
    size: u64,
    anonymous: u64,
    shared: u64,
}

impl Sampler {
    /// Looks at this process and all under it. Beyond `exact_above` bytes, memory that processes share since
    /// a fork is told apart, which costs the kernel a walk through their pages.
    pub fn sample(&mut self, exact_above: u64) -> Sample {
        let own_pid = i32::try_from(std::process::id()).unwrap_or(0);
        let Some(own) = status(own_pid) else { return Sample::default() };
        // Results on the heap are counted as results.
        let anonymous = own.anonymous.saturating_sub(crate::worker::store::heap_bytes());
        let own_bytes = anonymous + self.foreign(own_pid, own.shared);
        let mut sample = Sample { own: own_bytes, ..Sample::default() };
        for pid in descendants(own_pid) {
            // It may have ended meanwhile.
            let Some(found) = status(pid).filter(|s| !s.zombie) else { continue };
            // A child between vfork and exec lives in our memory.
            if found.parent == own_pid && found.size == own.size && same_program(pid) {
                continue;
            }
            let bytes = found.anonymous + self.foreign(pid, found.shared);
            sample.processes.push(Process { pid, parent: found.parent, bytes });
        }
        self.shared.retain(|pid, _| *pid == own_pid || sample.processes.iter().any(|p| p.pid == *pid));
        if sample.total() > exact_above {
            count_forks_once(&mut sample.processes);
            sample.exact = true;
        }
        sample
    }

    /// Of `shared` bytes of resident shared memory, those that are no results of ours.
    fn foreign(&mut self, pid: i32, shared: u64) -> u64 {
        if self.every_mapping || shared < SHARED_BYTES_MIN {
            return if self.every_mapping { shared } else { 0 };
        }
        match self.shared.get(&pid) {
            Some((then, foreign)) if then.abs_diff(shared) < SHARED_BYTES_MIN => *foreign,
            _ => {
                let maps = fs::read(format!("/proc/{pid}/smaps"));
                let foreign = maps.map_or(0, |maps| foreign_in(&String::from_utf8_lossy(&maps)));
                self.shared.insert(pid, (shared, foreign));
                foreign
            }
        }
    }
}

/// Where processes may share pages since a fork, takes their parts of these pages instead.
fn count_forks_once(processes: &mut Vec<Process>) {
    let pids: FxHashSet<i32> = processes.iter().map(|p| p.pid).collect();
    let parents: FxHashSet<i32> = processes.iter().map(|p| p.parent).collect();
    for process in processes {
        if !pids.contains(&process.parent) && !parents.contains(&process.pid) {
            continue;
        }
        let Ok(rollup) = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)) else { continue };
        // Kernels before 5.9 do not tell; then shared pages count in each.
        if let Some(part) = field(&rollup, "Pss_Anon") {
            process.bytes = process.bytes.min(part);
        }
    }
}

fn same_program(pid: i32) -> bool {
    let program = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    program(&pid.to_string()) == program("self")
}

/// The processes under `root`.
fn descendants(root: i32) -> Vec<i32> {
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(pid) = next.pop() {
        let Some(children) = children(pid) else {
            if pid == root {
                // A kernel without lists of children.
                return process::descendants().iter().map(|p| p.pid).collect();
            }
            continue;
        };
        found.extend(&children);
        next.extend(children);
    }
    found
}

/// The children of all threads of a process; `None` if the kernel does not list them.
fn children(pid: i32) -> Option<Vec<i32>> {
    let (mut all, mut listed) = (Vec::new(), false);
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        if let Ok(text) = fs::read_to_string(thread.path().join("children")) {
            listed = true;
            all.extend(text.split_whitespace().filter_map(|p| p.parse::<i32>().ok()));
        }
    }
    listed.then_some(all)
}

fn status(pid: i32) -> Option<Status> {
    let text = fs::read(format!("/proc/{pid}/status")).ok()?;
    Some(parse_status(&String::from_utf8_lossy(&text)))
}

fn parse_status(text: &str) -> Status {
    let word = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()
    };
    Status {
        parent: word("PPid").and_then(|p| p.parse().ok()).unwrap_or(0),
        zombie: matches!(word("State"), Some("Z" | "X")),
        size: field(text, "VmSize").unwrap_or(0),
        anonymous: field(text, "RssAnon").unwrap_or(0),
        shared: field(text, "RssShmem").unwrap_or(0),
    }
}

/// A line such as `RssAnon:  12 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// A process's part of shared memory that is not ours, from its `smaps`.
fn foreign_in(maps: &str) -> u64 {
    let ours = format!("/memfd:{NAME_PREFIX}");
    let (mut counts, mut sum) = (false, 0);
    for line in maps.lines() {
        if let Some(rest) = line.strip_prefix("Pss:") {
            let kib = rest.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            sum += if counts { kib * 1024 } else { 0 };
        } else if line.split_once(' ').is_some_and(|(range, _)| is_range(range)) {
            let path = line.splitn(6, ' ').nth(5).unwrap_or("").trim_start();
            let shared = ["/memfd:", "/dev/shm/", "/SYSV", "/dev/zero"].iter().any(|p| path.starts_with(p));
            counts = shared && !path.starts_with(&ours);
        }
    }
    sum
}

fn is_range(word: &str) -> bool {
    let hex = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit());
    word.split_once('-').is_some_and(|(from, to)| hex(from) && hex(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::store::memfile::MemWriter;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    const MIB: u64 = 1 << 20;

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            // Whatever it started is in its group.
            let group = nix::unistd::Pid::from_raw(self.0.id() as i32);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }

    fn run(line: &str) -> Running {
        let mut command = Command::new("bash");
        command.args(["-c", line]).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        Running(command.spawn().unwrap())
    }

    fn until(pid: u32, exact_above: u64, wanted: impl Fn(u64) -> bool) -> u64 {
        let begin = Instant::now();
        loop {
            let found = Sampler::default().sample(exact_above).below(pid as i32);
            if wanted(found) || begin.elapsed() > Duration::from_secs(20) {
                return found;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn anonymous_memory_of_all_processes_below_counts() {
        let child = run("(head -c 40000000 /dev/zero; sleep 60) | tail & wait");
        let found = until(child.0.id(), u64::MAX, |n| n > 38 * MIB);
        assert!((38 * MIB..80 * MIB).contains(&found), "{found}");
    }

    #[test]
    fn what_is_shared_since_a_fork_counts_once() {
        let line =
            "x=$(head -c 30000000 /dev/zero | tr '\\0' x); (read; echo ${#x}) & (read; echo ${#x}) & wait";
        let child = run(line);
        let cheap = until(child.0.id(), u64::MAX, |n| n > 75 * MIB);
        let exact = until(child.0.id(), 0, |n| n < 75 * MIB);
        assert!(cheap > 75 * MIB && exact < 75 * MIB && exact > 28 * MIB, "{cheap} {exact}");
    }

    #[test]
    fn mapped_results_are_not_counted_again() {
        let own = std::process::id() as i32;
        let writer = MemWriter::create("t").unwrap();
        writer.file().set_len(32 * MIB).unwrap();
        // SAFETY: nobody truncates the file in this test.
        let mut map = unsafe { memmap2::MmapMut::map_mut(writer.file()).unwrap() };
        map.fill(1);
        let shared = status(own).unwrap().shared;
        assert!(shared >= 32 * MIB, "{shared}");
        let foreign = Sampler::default().foreign(own, shared);
        assert!(foreign < 30 * MIB, "{foreign}");
        let mut summed = Sampler { every_mapping: true, ..Sampler::default() };
        assert_eq!(summed.foreign(own, shared), shared);
    }

    #[test]
    fn listings_parse() {
        let text = "Name:\ta: PPid: 9\nState:\tZ (zombie)\nPPid:\t12\nVmSize:\t 10 kB\nRssAnon:\t 3 kB\n";
        let wanted = Status { parent: 12, zombie: true, size: 10240, anonymous: 3072, shared: 0 };
        assert_eq!(parse_status(text), wanted);
        let maps = "7f00-7f10 rw-s 00000000 00:01 17 /memfd:hpcdag:day (deleted)\nRss: 8 kB\nPss: 8 kB\n\
                    7f20-7f30 rw-s 00000000 00:01 18   /memfd:other (deleted)\nPss:    4 kB\n\
                    Pss_Dirty: 4 kB\n\
                    7f40-7f50 rw-p 00000000 00:00 0\nPss: 16 kB\n";
        assert_eq!(foreign_in(maps), 4096);
    }
}
