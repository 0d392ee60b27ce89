//! Control groups (v2) of single tasks: a hard limit that the kernel keeps. Owns finding out whether this
//! worker may make such groups, making them, and reading afterwards whether the limit was hit. Which tasks
//! get one is `prepare`'s business.

use crate::base::failure::{Enforced, Overrun};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a group whose processes were killed may take to become empty.
const EMPTY_TIME: Duration = Duration::from_secs(1);

/// The group under which tasks get theirs.
#[derive(Debug)]
pub struct Groups {
    dir: PathBuf,
    /// Where the worker itself went: a group with controllers for its children has no processes.
    leaf: PathBuf,
    made: AtomicU64,
}

impl Groups {
    /// Takes over this process's group for its tasks, if that is possible; `ours` as in `take_over`.
    ///
    /// # Errors
    /// Why it cannot be done here, in words.
    pub fn find(ours: &[u32]) -> Result<Groups, String> {
        let own =
            fs::read_to_string("/proc/self/cgroup").map_err(|e| format!("cannot read its group: {e}"))?;
        let hybrid = Path::new("/sys/fs/cgroup/unified");
        let root = if hybrid.is_dir() { hybrid } else { Path::new("/sys/fs/cgroup") };
        Groups::take_over(root, &own, ours)
    }

    /// Takes over the group of this process for its tasks. `root` is where v2 is mounted, `own` the content
    /// of `/proc/self/cgroup`, `ours` the processes that may be moved: the worker and its nanny. To be
    /// called before other processes are started. Changes nothing if it fails.
    ///
    /// # Errors
    /// Why it cannot be done here, in words.
    fn take_over(root: &Path, own: &str, ours: &[u32]) -> Result<Groups, String> {
        let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        let dir = root.join(path.trim_start_matches('/'));
        let shown = dir.display();
        let read = |name: &str| {
            fs::read_to_string(dir.join(name)).map_err(|e| format!("cannot read {shown}/{name}: {e}"))
        };
        let controllers = read("cgroup.controllers")?;
        if !controllers.split_whitespace().any(|c| c == "memory") {
            return Err(format!("the memory controller is not delegated to {shown}"));
        }
        let inside = read("cgroup.procs")?;
        let others = inside.split_whitespace().filter(|p| p.parse().is_ok_and(|p: u32| !ours.contains(&p)));
        if let Some(other) = others.into_iter().next() {
            return Err(format!("process {other} is in {shown} too and is not ours to move"));
        }
        let leaf = dir.join(format!("hpcdag-{}-worker", std::process::id()));
        fs::create_dir(&leaf).map_err(|e| format!("cannot make a group in {shown}: {e}"))?;
        let groups = Groups { dir: dir.clone(), leaf, made: AtomicU64::new(0) };
        let moved =
            inside.split_whitespace().try_for_each(|pid| fs::write(groups.leaf.join("cgroup.procs"), pid));
        moved
            .and_then(|()| fs::write(dir.join("cgroup.subtree_control"), "+memory"))
            .map_err(|e| format!("the memory controller cannot be used in {shown}: {e}"))?;
        Ok(groups)
    }

    /// A group for one task, with a limit in bytes.
    ///
    /// # Errors
    /// The system does not allow it (any more).
    pub fn create(&self, limit_bytes: u64) -> io::Result<Group> {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(format!("hpcdag-{}-task-{n}", std::process::id()));
        fs::create_dir(&dir)?;
        let group = Group { dir, limit_bytes };
        fs::write(group.dir.join("memory.max"), limit_bytes.to_string())?;
        // Otherwise it would go on in swap; where there is no swap there is no such file.
        let _ = fs::write(group.dir.join("memory.swap.max"), "0");
        // All of the task ends, not just one of its processes. Kernels before 4.19 end the largest.
        let _ = fs::write(group.dir.join("memory.oom.group"), "1");
        Ok(group)
    }
}

impl Drop for Groups {
    /// Goes back to where it was, so that the group can be removed by whoever made it.
    fn drop(&mut self) {
        // Where any of this fails the groups go with the batch job's.
        let _ = fs::write(self.dir.join("cgroup.subtree_control"), "-memory");
        let inside = fs::read_to_string(self.leaf.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.split_whitespace() {
            let _ = fs::write(self.dir.join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.leaf);
    }
}

/// The group of one task. Whatever is in it ends with this value.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
    limit_bytes: u64,
}

impl Group {
    /// The file into which a process writes to become part of it.
    pub(super) fn entrance(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Whether, and how, the limit was hit.
    pub(super) fn overrun(&self) -> Option<Overrun> {
        let events = fs::read_to_string(self.dir.join("memory.events")).ok()?;
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
        if kills.trim().parse::<u64>().ok()? == 0 {
            return None;
        }
        // Kernels before 5.19 do not tell the peak; it was refused more than the limit.
        let peak = fs::read_to_string(self.dir.join("memory.peak")).ok();
        let reached = peak.and_then(|p| p.trim().parse().ok()).unwrap_or(self.limit_bytes);
        Some(Overrun { declared: self.limit_bytes, reached, by: Enforced::Cgroup })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let until = Instant::now() + EMPTY_TIME;
        while let Err(error) = fs::remove_dir(&self.dir) {
            if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= until {
                tracing::debug!("cannot remove {}: {error}", self.dir.display());
                return;
            }
            // Known since 5.14; elsewhere the process group has been ended, and what left it has to end
            // itself.
            let _ = fs::write(self.dir.join("cgroup.kill"), "1");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would show, as plain files.
    fn tree(controllers: &str, procs: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("job/step");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
        fs::write(dir.join("cgroup.procs"), procs).unwrap();
        root
    }

    #[test]
    fn a_delegated_group_is_taken_over() {
        let root = tree("cpu memory pids\n", "7\n8\n");
        let groups = Groups::take_over(root.path(), "4:pids:/x\n0::/job/step\n", &[7, 8]).unwrap();
        let dir = root.path().join("job/step");
        assert_eq!(fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap(), "+memory");
        assert_eq!(fs::read_to_string(groups.leaf.join("cgroup.procs")).unwrap(), "8");
        let group = groups.create(1000).unwrap();
        assert_eq!(fs::read_to_string(group.dir.join("memory.max")).unwrap(), "1000");
        assert_eq!(group.overrun(), None);
        fs::write(group.dir.join("memory.events"), "low 0\nmax 3\noom 1\noom_kill 0\n").unwrap();
        assert_eq!(group.overrun(), None);
        fs::write(group.dir.join("memory.events"), "oom 1\noom_kill 2\noom_group_kill 1\n").unwrap();
        assert_eq!(group.overrun().unwrap().reached, 1000);
        fs::write(group.dir.join("memory.peak"), "999\n").unwrap();
        let said = group.overrun().unwrap().to_string();
        assert!(said.contains("declared 1000 bytes") || said.contains("declared 1000"), "{said}");
        assert!(said.contains("999") && said.contains("control group"), "{said}");
    }

    #[test]
    fn what_is_not_delegated_is_left_alone() {
        for (controllers, procs, why) in
            [("cpu\n", "7\n", "not delegated"), ("memory\n", "7\n9\n", "process 9 is in")]
        {
            let root = tree(controllers, procs);
            let said = Groups::take_over(root.path(), "0::/job/step\n", &[7, 8]).unwrap_err();
            assert!(said.contains(why), "{said}");
            let dir = root.path().join("job/step");
            assert_eq!(fs::read_dir(dir).unwrap().count(), 2);
        }
        assert!(Groups::take_over(Path::new("/nowhere"), "0::/\n", &[1]).is_err());
    }
}
