//! Processors, resource limits and what the kernel can do: reading them, and judging what was read.

use super::findings::{Area, Findings};
use crate::base::units::ByteSize;
use crate::launch::slurm::environment::{self, Share};
use crate::worker::process::online_processors;
use crate::worker::store::memfile::MemWriter;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Fewer descriptors than this, and a worker with many results or peers runs out of them.
const FILES_MIN: u64 = 4096;

/// Processes and threads that a worker and its tasks may well need.
const PROCESSES_NEEDED: u64 = 500;

/// Processor time that a scheduler may use up in an afternoon, seconds.
const CPU_TIME_ENOUGH: u64 = 24 * 3600;

/// Address space below this fails programs that reserve much and use little, bytes.
const ADDRESS_SPACE_ENOUGH: u64 = 16 << 30;

/// The oldest kernel that hpcdag is made for (RHEL 8).
const KERNEL_MIN: (u32, u32) = (4, 18);

/// A resource limit; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Limit {
    /// What binds.
    pub soft: Option<u64>,
    /// How far it may be raised.
    pub hard: Option<u64>,
}

/// What was read.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Readings {
    /// Processors that this process may use: affinity mask and quotas.
    pub processors: u32,
    /// Processors of the machine.
    pub online: u32,
    /// Processors that the batch system says the job has here, and by what.
    pub granted: Option<(String, u32)>,
    /// What Slurm's step should have been started with, if it has fewer than it should.
    pub missing_flag: Option<String>,
    /// Open files.
    pub files: Limit,
    /// Processes and threads of this user.
    pub processes: Limit,
    /// How many there are.
    pub processes_now: u64,
    /// Root is not bound by the limit of processes.
    pub root: bool,
    /// Processes and threads of this control group: limit and present number.
    pub group_processes: Option<(u64, u64)>,
    /// Processor time of each process, seconds.
    pub cpu_time: Limit,
    /// Address space of each process, bytes.
    pub address_space: Limit,
    /// The kernel's release.
    pub kernel: String,
    /// Memory files with seals can be made; else why not.
    pub memfd: Option<String>,
    /// Processes can be held by a descriptor; else why not.
    pub pidfd: Option<String>,
    /// Control groups of tasks can be made; else why not.
    pub cgroups: Option<String>,
}

impl Readings {
    /// Reads everything.
    pub fn here() -> Readings {
        let variable = |name: &str| std::env::var(name).ok();
        let own = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let online = online_processors();
        let uid = nix::unistd::geteuid();
        Readings {
            processors: own,
            online,
            granted: granted(&variable),
            missing_flag: Share::of(&environment::of_process).and_then(|s| s.complaint(own, online)),
            files: limit(Resource::RLIMIT_NOFILE),
            processes: limit(Resource::RLIMIT_NPROC),
            processes_now: threads_of(uid.as_raw()),
            root: uid.is_root(),
            group_processes: group_processes(),
            cpu_time: limit(Resource::RLIMIT_CPU),
            address_space: limit(Resource::RLIMIT_AS),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into()),
            memfd: MemWriter::create("doctor").and_then(MemWriter::seal).err().map(|e| e.to_string()),
            pidfd: pidfd(),
            cgroups: cgroups().err(),
        }
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn limit(resource: Resource) -> Limit {
    let finite = |n: u64| (n != RLIM_INFINITY).then_some(n);
    getrlimit(resource)
        .map(|(soft, hard)| Limit { soft: finite(soft), hard: finite(hard) })
        .unwrap_or_default()
}

/// What batch systems say about processors. Slurm's variable is of the node, the others' of the whole job.
fn granted(variable: &dyn Fn(&str) -> Option<String>) -> Option<(String, u32)> {
    let of = |job: &str, name: &str| {
        variable(job)?;
        Some((name.to_owned(), variable(name)?.trim().parse().ok()?))
    };
    of("SLURM_JOB_ID", "SLURM_CPUS_ON_NODE").or_else(|| of("PBS_JOBID", "NCPUS"))
}

/// Threads of all processes of a user: that is what the limit of processes counts.
fn threads_of(uid: u32) -> u64 {
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    let is_number = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    let of_user = entries.flatten().filter(|entry| {
        let process = entry.file_name().to_str().is_some_and(is_number);
        process && entry.metadata().is_ok_and(|m| m.uid() == uid)
    });
    let threads =
        |status: String| status.lines().find_map(|l| l.strip_prefix("Threads:")?.trim().parse().ok());
    of_user.map(|e| read(e.path().join("status")).and_then(threads).unwrap_or(1u64)).sum()
}

/// The directory of this process's group with a controller, and its file's directory in v1 or v2.
fn group_of(controller: &str) -> Option<std::path::PathBuf> {
    let own = read("/proc/self/cgroup")?;
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let mounts: &[&str] = match controllers {
            "" => &["", "unified"],
            list if list.split(',').any(|c| c == controller) => &[controller],
            _ => return None,
        };
        let tops = mounts.iter().map(|mount| Path::new("/sys/fs/cgroup").join(mount).join(path));
        tops.into_iter().find(|dir| dir.join("cgroup.procs").exists())
    })
}

fn group_processes() -> Option<(u64, u64)> {
    let dir = group_of("pids")?;
    Some((read(dir.join("pids.max"))?.parse().ok()?, read(dir.join("pids.current"))?.parse().ok()?))
}

fn pidfd() -> Option<String> {
    // SAFETY: a plain system call without pointers; the descriptor is closed below.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::pid_t::from(nix::unistd::getpid()), 0) };
    if fd < 0 {
        return Some(std::io::Error::last_os_error().to_string());
    }
    // SAFETY: it was opened just now and nobody else has it.
    unsafe { libc::close(fd as libc::c_int) };
    None
}

/// Whether a worker could give its tasks groups. Only looks: making them would move this process.
fn cgroups() -> Result<(), String> {
    let dir = group_of("").ok_or("control groups v2 are not mounted, or this process is in none")?;
    let controllers = read(dir.join("cgroup.controllers"));
    let controllers = controllers.ok_or_else(|| format!("{} is no group of version 2", dir.display()))?;
    if !controllers.split_whitespace().any(|c| c == "memory") {
        return Err(format!("the memory controller is not delegated to {}", dir.display()));
    }
    nix::unistd::access(&dir, nix::unistd::AccessFlags::W_OK)
        .map_err(|e| format!("cannot make groups in {}: {e}", dir.display()))
}

/// What to say about them.
pub(super) fn judge(r: &Readings) -> Findings {
    let mut found = Findings::new(Area::System);
    judge_processors(r, &mut found);
    judge_limits(r, &mut found);
    judge_kernel(r, &mut found);
    found
}

fn judge_processors(r: &Readings, found: &mut Findings) {
    let of = format!("{} of the machine's {} processors may be used", r.processors, r.online);
    match (&r.missing_flag, &r.granted) {
        (Some(flag), _) => {
            let (what, todo) = flag.split_once(": ").unwrap_or((flag, "start it by srun --cpus-per-task"));
            found.warning(what, todo);
        }
        // A job may span nodes, and what it has altogether says little about this one.
        (None, Some((name, granted))) if *granted > r.processors && *granted <= r.online => found.warning(
            format!("{of}, but the job was granted {granted} ({name})"),
            "inside a step, ask for them: srun -c N; for workers: --nthreads",
        ),
        (None, Some((name, granted))) if *granted < r.processors => found.note(format!(
            "{of}; the job was granted {granted} ({name}), which nothing enforces: workers take no more"
        )),
        (None, Some((name, granted))) => found.ok(format!("{of}; granted: {granted} ({name})")),
        (None, None) => found.ok(of),
    }
}

fn number(n: Option<u64>) -> String {
    n.map_or_else(|| "unlimited".into(), |n| n.to_string())
}

fn judge_limits(r: &Readings, found: &mut Findings) {
    let files = format!("open files: {}, may be raised to {}", number(r.files.soft), number(r.files.hard));
    match r.files.hard {
        Some(hard) if hard < FILES_MIN => found.warning(
            files,
            format!("ask for a hard limit of {FILES_MIN} or more (ulimit -Hn); keep workers few until then"),
        ),
        // Schedulers and workers raise it themselves.
        _ => found.ok(files),
    }
    judge_processes(r, found);
    match r.cpu_time.soft {
        Some(seconds) if seconds < CPU_TIME_ENOUGH => found.warning(
            format!("processor time of each process: {seconds} s, then it is killed (RLIMIT_CPU)"),
            "run the scheduler inside a job: `hpcdag up` in the shell of salloc does so by itself",
        ),
        _ => found.ok("processor time of each process: unlimited, as far as it matters"),
    }
    match r.address_space.soft {
        Some(bytes) if bytes < ADDRESS_SPACE_ENOUGH => found.warning(
            format!("address space of each process: {} (ulimit -v)", ByteSize(bytes)),
            "ask for more memory per slot (h_vmem), or raise it: ulimit -v unlimited",
        ),
        Some(bytes) => found.note(format!("address space of each process: {}", ByteSize(bytes))),
        None => found.ok("address space of each process: unlimited"),
    }
}

fn judge_processes(r: &Readings, found: &mut Findings) {
    let own = r.processes.soft.filter(|_| !r.root).map(|limit| (limit, r.processes_now, "ulimit -u"));
    let of_group = r.group_processes.map(|(limit, now)| (limit, now, "pids.max of the control group"));
    let tightest = own.into_iter().chain(of_group).min_by_key(|(limit, now, _)| limit.saturating_sub(*now));
    let Some((limit, now, who)) = tightest else {
        found.ok(format!("processes and threads: {} of yours, not limited", r.processes_now));
        return;
    };
    let text = format!("processes and threads: {now} of at most {limit} ({who})");
    match limit.saturating_sub(now) {
        left if left < 50 => found.problem(text, "end some of them, or run this on a compute node"),
        left if left < PROCESSES_NEEDED => {
            found.warning(text, "run workers and schedulers on compute nodes, or use fewer --nthreads");
        }
        _ => found.ok(text),
    }
}

fn judge_kernel(r: &Readings, found: &mut Findings) {
    let mut parts = r.kernel.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < KERNEL_MIN => found.warning(
            format!("kernel {} is older than {}.{}", r.kernel, KERNEL_MIN.0, KERNEL_MIN.1),
            "use newer nodes if there are any; hpcdag is not tested on such kernels",
        ),
        _ => found.ok(format!("kernel {}", r.kernel)),
    }
    match &r.memfd {
        Some(why) => {
            found.problem(
                format!("sealed memory files cannot be made: {why}"),
                "use nodes with a newer kernel",
            );
        }
        None => found.ok("sealed memory files can be made (memfd)"),
    }
    match &r.pidfd {
        Some(why) => found.note(format!("no descriptors of processes (pidfd): {why}; timers do instead")),
        None => found.ok("processes can be held by a descriptor (pidfd)"),
    }
    match &r.cgroups {
        Some(why) => {
            found.note(format!("worker --enforce will watch instead of using control groups: {why}"))
        }
        None => found.ok("control groups of tasks can be made (worker --enforce)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::findings::Level;

    fn good() -> Readings {
        Readings { processors: 4, online: 4, kernel: "6.1.0-18-amd64".into(), ..Readings::default() }
    }

    fn level(change: impl Fn(&mut Readings)) -> (Level, String) {
        let mut readings = good();
        change(&mut readings);
        let found = judge(&readings);
        let worst = found.list.iter().max_by_key(|f| f.level).cloned().unwrap();
        assert_eq!(worst.todo.is_some(), worst.level >= Level::Warning);
        (worst.level, format!("{} do: {}", worst.text, worst.todo.unwrap_or_default()))
    }

    #[test]
    fn a_good_machine_has_no_findings() {
        assert_eq!(judge(&good()).level(), Level::Ok);
        assert!(judge(&Readings::here()).list.len() >= 8);
    }

    #[test]
    fn processors_are_compared() {
        let granted = |n| level(move |r| r.granted = Some(("SLURM_CPUS_ON_NODE".into(), n))).0;
        assert_eq!([granted(4), granted(2), granted(100)], [Level::Ok, Level::Note, Level::Ok]);
        let fewer = |r: &mut Readings| {
            r.processors = 1;
            r.granted = Some(("NCPUS".into(), 4));
        };
        assert_eq!(level(fewer).0, Level::Warning);
        let share = Share { job_cpus: 4, tasks: 1 };
        let (worst, text) = level(|r| r.missing_flag = share.complaint(1, 4));
        assert!(worst == Level::Warning && text.contains("-c 4"), "{text}");
    }

    #[test]
    fn limits_are_judged() {
        let both = |n| Limit { soft: Some(n), hard: Some(n) };
        assert_eq!(level(|r| r.files = both(1024)).0, Level::Warning);
        assert_eq!(level(|r| r.files = Limit { soft: Some(1024), hard: Some(65536) }).0, Level::Ok);
        assert_eq!(level(|r| r.cpu_time = both(1800)).0, Level::Warning);
        assert_eq!(level(|r| r.address_space = both(2 << 30)).0, Level::Warning);
        let processes = |limit, now, root| {
            level(move |r| {
                (r.processes, r.processes_now, r.root) = (both(limit), now, root);
            })
            .0
        };
        assert_eq!(processes(4096, 100, false), Level::Ok);
        assert_eq!(processes(400, 100, false), Level::Warning);
        assert_eq!(processes(120, 100, false), Level::Problem);
        assert_eq!(processes(120, 100, true), Level::Ok, "root is not bound");
        assert_eq!(level(|r| r.group_processes = Some((100, 99))).0, Level::Problem);
    }

    #[test]
    fn kernels_are_judged() {
        assert_eq!(level(|r| r.kernel = "3.10.0-1160.el7".into()).0, Level::Warning);
        assert_eq!(level(|r| r.kernel = "4.18.0-553.el8".into()).0, Level::Ok);
        assert_eq!(level(|r| r.memfd = Some("no".into())).0, Level::Problem);
        assert_eq!(level(|r| r.cgroups = Some("no".into())).0, Level::Note);
    }
}
