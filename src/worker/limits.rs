//! What this process may use: processors and memory. Owns finding out; the settings that override it are the
//! configuration's, and what happens when memory is short is not decided here.

use super::process::online_processors;
use crate::base::units::ByteSize;
use crate::config::{MemoryLimit, Nthreads};
use nix::sys::resource::{Resource, getrlimit};
use std::path::{Path, PathBuf};

/// Where control groups are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Limits of v1 groups beyond this mean none, bytes.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// The number of task slots: as set, or the processors that affinity mask, control groups and batch job leave
/// to this process.
pub(super) fn threads(setting: Nthreads, variable: &dyn Fn(&str) -> Option<String>) -> u32 {
    if let Nthreads::Count(n) = setting {
        return n.get();
    }
    // The standard library knows the affinity mask and the quotas of both kinds of control groups.
    let own = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    // The second says what the job asked for, whether or not this step has it: several tasks may share it.
    let share = number(variable, "SLURM_CPUS_ON_NODE").map(|n| n / u64::from(workers_here(variable)));
    let granted = [share, number(variable, "SLURM_CPUS_PER_TASK")].into_iter().flatten().min();
    granted.map_or(own, |granted| own.min(u32::try_from(granted).unwrap_or(u32::MAX))).max(1)
}

/// The memory of a worker and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// Bytes; `None` for no limit.
    pub bytes: Option<u64>,
    /// What was looked at, a line for each.
    pub found: Vec<String>,
}

/// A limit that was found.
struct Bound {
    name: String,
    bytes: u64,
    /// How many have to share it: workers of this job on this node, or the part of the node by processors.
    share: f64,
    shared: String,
}

impl Bound {
    fn own(&self) -> u64 {
        (self.bytes as f64 * self.share) as u64
    }
}

/// The memory of the worker: as set, or the least of what control groups, batch job, resource limits and the
/// machine leave to it. `threads` are its task slots.
///
/// `reserve` is what the job's workers on this node leave to others; sizes that are set are not lessened.
pub(super) fn memory(
    setting: MemoryLimit,
    reserve: Option<ByteSize>,
    threads: u32,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Limit {
    let size = |bytes| ByteSize(bytes).to_string();
    if let MemoryLimit::None = setting {
        return Limit { bytes: None, found: vec!["memory-limit = none: nothing is looked at".into()] };
    }
    let bounds = bounds(threads, variable);
    let mut found = Vec::new();
    for bound in &bounds {
        let own = match bound.shared.as_str() {
            "" => String::new(),
            shared => format!(", {shared}: {}", size(bound.own())),
        };
        found.push(format!("{}: {}{own}", bound.name, size(bound.bytes)));
    }
    let all = bounds.iter().map(|b| b.bytes).min();
    let bytes = match setting {
        MemoryLimit::Auto => bounds.iter().map(Bound::own).min(),
        MemoryLimit::Fraction(fraction) => all.map(|bytes| (bytes as f64 * fraction.0) as u64),
        MemoryLimit::Size(own) => {
            if let Some(all) = all.filter(|all| own.0 > *all) {
                found.push(format!("memory-limit = {own} is more than the {} granted here", size(all)));
            }
            Some(own.0)
        }
        MemoryLimit::None => None,
    };
    let kept = match (setting, reserve, bytes) {
        (MemoryLimit::Auto | MemoryLimit::Fraction(_), Some(reserve), Some(bytes)) => {
            (reserve.0 / u64::from(workers_here(variable))).min(bytes / 4)
        }
        _ => 0,
    };
    let bytes = bytes.map(|bytes| bytes - kept);
    if kept > 0 {
        found.push(format!("memory-reserve: {} of it are left to others on the node", size(kept)));
    }
    found.push(match (setting, bytes) {
        (_, None) => "nothing limits memory here".into(),
        (MemoryLimit::Auto, Some(bytes)) => {
            format!("memory-limit = auto, the least of these: {}", size(bytes))
        }
        (MemoryLimit::Fraction(f), Some(bytes)) => {
            format!("memory-limit = {}, of the least of these before it is shared: {}", f.0, size(bytes))
        }
        (_, Some(bytes)) => format!("memory-limit as set: {}", size(bytes)),
    });
    Limit { bytes, found }
}

/// All limits that bind, the whole and this worker's part of it.
fn bounds(threads: u32, variable: &dyn Fn(&str) -> Option<String>) -> Vec<Bound> {
    let workers = workers_here(variable);
    let of_job = |name: String, bytes| Bound {
        name,
        bytes,
        share: 1.0 / f64::from(workers),
        shared: if workers > 1 { format!("shared by {workers} workers") } else { String::new() },
    };
    let mut bounds: Vec<_> = cgroups().into_iter().map(|(name, bytes)| of_job(name, bytes)).collect();
    bounds.extend(batch(variable).map(|(name, bytes)| of_job(name.into(), bytes)));
    let whole = |name: &str, bytes| Bound { name: name.into(), bytes, share: 1.0, shared: String::new() };
    bounds.extend(address_space().map(|bytes| whole("ulimit -v", bytes)));
    bounds.extend(ram().map(|bytes| {
        let processors = online_processors();
        let share = (f64::from(threads) / f64::from(processors)).min(1.0);
        let shared = match share < 1.0 {
            true => format!("{threads} of {processors} processors"),
            false => String::new(),
        };
        Bound { share, shared, ..whole("RAM", bytes) }
    }));
    bounds
}

/// How many workers of the same job step run on this node: Slurm's tasks, as in `2(x3),1`.
fn workers_here(variable: &dyn Fn(&str) -> Option<String>) -> u32 {
    let Some(list) = variable("SLURM_STEP_TASKS_PER_NODE") else {
        // Outside of a step this is what the job's steps are to be like, not what this process is part of.
        let in_step = number(variable, "SLURM_STEP_NUM_TASKS").is_some();
        let each = in_step.then(|| number(variable, "SLURM_NTASKS_PER_NODE")).flatten();
        return each.and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
    };
    let mut node = variable("SLURM_NODEID").and_then(|n| n.trim().parse::<u32>().ok()).unwrap_or(0);
    for part in list.split(',') {
        let (tasks, times) = match part.split_once("(x") {
            Some((tasks, times)) => (tasks, times.trim_end_matches(')').parse().unwrap_or(1)),
            None => (part, 1),
        };
        if node < times {
            return tasks.trim().parse().unwrap_or(1).max(1);
        }
        node -= times;
    }
    1
}

fn number(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<u64> {
    variable(name)?.trim().parse().ok().filter(|n| *n > 0)
}

/// What Slurm grants on this node; its variables are in MiB.
fn batch(variable: &dyn Fn(&str) -> Option<String>) -> Option<(&'static str, u64)> {
    let per_node = || Some(("SLURM_MEM_PER_NODE", number(variable, "SLURM_MEM_PER_NODE")?));
    let per_cpu = || {
        let cpus = number(variable, "SLURM_CPUS_ON_NODE")?;
        let bytes = number(variable, "SLURM_MEM_PER_CPU")?.checked_mul(cpus)?;
        Some(("SLURM_MEM_PER_CPU x SLURM_CPUS_ON_NODE", bytes))
    };
    let (name, mib) = per_node().or_else(per_cpu)?;
    Some((name, mib.checked_mul(1 << 20)?))
}

/// The limit of address space, bytes.
pub(super) fn address_space() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    Some(soft).filter(|bytes| *bytes < NO_LIMIT_BYTES)
}

/// Physical memory, bytes.
pub(super) fn ram() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    Some(system.total_memory()).filter(|bytes| *bytes > 0)
}

/// The limits of this process's control groups and of those around them, with the files they stand in.
pub(super) fn cgroups() -> Vec<(String, u64)> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup_limits(Path::new(CGROUP_ROOT), &own)
}

/// The limits of this process's control groups and of all those around them, with the files they stand in.
/// `own` is the content of `/proc/self/cgroup`.
fn cgroup_limits(root: &Path, own: &str) -> Vec<(String, u64)> {
    let mut limits = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mounts, file): (&[&str], _) = match controllers {
            "" => (&["", "unified"], "memory.max"),
            list if list.split(',').any(|c| c == "memory") => (&["memory"], "memory.limit_in_bytes"),
            _ => continue,
        };
        for mount in mounts {
            let top = root.join(mount);
            // Inside a container the path is the host's and may lead nowhere; the mount itself still counts.
            let inside = Path::new(path.trim_start_matches('/'));
            let groups = inside.ancestors().map(|p| top.join(p)).filter(|p| stays_inside(p, &top));
            let files = groups.map(|group| group.join(file));
            limits.extend(files.filter_map(|f| Some((f.display().to_string(), limit_in(&f)?))));
        }
    }
    limits
}

fn stays_inside(path: &Path, top: &Path) -> bool {
    path.starts_with(top) && !path.components().any(|c| c == std::path::Component::ParentDir)
}

fn limit_in(file: &PathBuf) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Fraction;
    use std::num::NonZeroU32;

    #[test]
    fn the_least_of_all_groups_around_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |group: &str, file: &str, text: &str| {
            let dir = root.path().join(group);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(file), text).unwrap();
        };
        write("job/step", "memory.max", "max\n");
        write("job", "memory.max", "3000\n");
        let cgroup_limit =
            |root: &Path, own: &str| cgroup_limits(root, own).into_iter().map(|(_, bytes)| bytes).min();
        assert_eq!(cgroup_limit(root.path(), "0::/job/step\n"), Some(3000));
        write("memory/job/step", "memory.limit_in_bytes", "2000\n");
        write("memory", "memory.limit_in_bytes", "9223372036854771712\n");
        let hybrid = "4:cpu,memory:/job/step\n1:pids:/\n0::/job/step\n";
        assert_eq!(cgroup_limit(root.path(), hybrid), Some(2000));
        assert_eq!(cgroup_limit(root.path(), "4:memory:/elsewhere\n"), None);
        assert_eq!(cgroup_limit(root.path(), "0::/../../etc\nnonsense\n"), None);
    }

    #[test]
    fn settings_and_batch_variables_bind() {
        let slurm = |name: &str| match name {
            "SLURM_CPUS_PER_TASK" => Some("1".to_string()),
            "SLURM_MEM_PER_CPU" => Some("10".to_string()),
            "SLURM_CPUS_ON_NODE" => Some("2".to_string()),
            _ => None,
        };
        assert_eq!(threads(Nthreads::Auto, &slurm), 1);
        let shared = |name: &str| match name {
            "SLURM_CPUS_ON_NODE" | "SLURM_CPUS_PER_TASK" => Some(online_processors().to_string()),
            "SLURM_STEP_TASKS_PER_NODE" => Some(online_processors().to_string()),
            _ => None,
        };
        assert_eq!(threads(Nthreads::Auto, &shared), 1, "as many workers as processors");
        assert_eq!(threads(Nthreads::Count(NonZeroU32::new(7).unwrap()), &slurm), 7);
        assert!(threads(Nthreads::Auto, &|_| None) >= 1);
        assert_eq!(batch(&slurm).map(|(_, bytes)| bytes), Some(20 << 20));
        let threads = online_processors();
        let found = |setting| memory(setting, None, threads, &slurm).bytes;
        assert_eq!(found(MemoryLimit::Auto), Some(20 << 20));
        assert_eq!(found(MemoryLimit::Fraction(Fraction(0.5))), Some(10 << 20));
        assert_eq!(found(MemoryLimit::Size(ByteSize(5))), Some(5));
        assert_eq!(found(MemoryLimit::None), None);
    }

    #[test]
    fn a_job_is_shared_by_its_workers_and_a_machine_by_online_processors() {
        let slurm = |node: &'static str| {
            move |name: &str| match name {
                "SLURM_STEP_TASKS_PER_NODE" => Some("2(x3),4".to_string()),
                "SLURM_NODEID" => Some(node.to_string()),
                "SLURM_MEM_PER_NODE" => Some("40".to_string()),
                _ => None,
            }
        };
        assert_eq!([workers_here(&slurm("0")), workers_here(&slurm("2"))], [2, 2]);
        assert_eq!([workers_here(&slurm("3")), workers_here(&|_| None)], [4, 1]);
        let limit = memory(MemoryLimit::Auto, None, online_processors(), &slurm("3"));
        assert_eq!(limit.bytes, Some(10 << 20));
        let less = |reserve| {
            memory(MemoryLimit::Auto, Some(ByteSize(reserve)), online_processors(), &slurm("3")).bytes
        };
        assert_eq!([less(4 << 20), less(1 << 40)], [Some(9 << 20), Some((10 << 20) * 3 / 4)]);
        let text = limit.found.join("\n");
        assert!(text.contains("SLURM_MEM_PER_NODE: 40 MiB, shared by 4 workers: 10 MiB"), "{text}");
        let ram = bounds(1, &|_| None).into_iter().find(|b| b.name == "RAM").unwrap();
        assert_eq!(ram.own(), (ram.bytes as f64 / f64::from(online_processors())) as u64);
    }
}
