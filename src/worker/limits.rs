//! What this process may use: processors and memory. Owns finding out; the settings that override it are the
//! configuration's, and what happens when memory is short is not decided here.

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
    let granted = number(variable, "SLURM_CPUS_PER_TASK").and_then(|n| u32::try_from(n).ok());
    granted.map_or(own, |granted| own.min(granted)).max(1)
}

/// The memory of the worker, bytes; `None` for no limit.
pub(super) fn memory(setting: MemoryLimit, variable: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let granted = || {
        let limits = [cgroups(), batch(variable), address_space(), ram()];
        limits.into_iter().flatten().min()
    };
    match setting {
        MemoryLimit::Auto => granted(),
        MemoryLimit::None => None,
        MemoryLimit::Size(size) => Some(size.0),
        MemoryLimit::Fraction(fraction) => granted().map(|bytes| (bytes as f64 * fraction.0) as u64),
    }
}

fn number(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<u64> {
    variable(name)?.trim().parse().ok().filter(|n| *n > 0)
}

/// What Slurm grants on this node; its variables are in MiB.
fn batch(variable: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let per_node = number(variable, "SLURM_MEM_PER_NODE");
    let per_cpu = || {
        let cpus = number(variable, "SLURM_CPUS_ON_NODE")?;
        number(variable, "SLURM_MEM_PER_CPU")?.checked_mul(cpus)
    };
    per_node.or_else(per_cpu)?.checked_mul(1 << 20)
}

fn address_space() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    Some(soft).filter(|bytes| *bytes < NO_LIMIT_BYTES)
}

fn ram() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    Some(system.total_memory()).filter(|bytes| *bytes > 0)
}

fn cgroups() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    cgroup_limit(Path::new(CGROUP_ROOT), &own)
}

/// The least limit of this process's control groups and all those around them. `own` is the content of
/// `/proc/self/cgroup`.
fn cgroup_limit(root: &Path, own: &str) -> Option<u64> {
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
            limits.extend(groups.filter_map(|group| limit_in(&group.join(file))));
        }
    }
    limits.into_iter().min()
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
        assert_eq!(threads(Nthreads::Count(NonZeroU32::new(7).unwrap()), &slurm), 7);
        assert!(threads(Nthreads::Auto, &|_| None) >= 1);
        assert_eq!(batch(&slurm), Some(20 << 20));
        assert_eq!(memory(MemoryLimit::Auto, &slurm), Some(20 << 20));
        assert_eq!(memory(MemoryLimit::Fraction(Fraction(0.5)), &slurm), Some(10 << 20));
        assert_eq!(memory(MemoryLimit::None, &slurm), None);
    }
}
