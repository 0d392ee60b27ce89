//! Processes that left their task: in a session of their own, with a parent that has ended, they are in no
//! process group and below no process that a worker knows. Owns how they are found, by the task directory in
//! their environment, and killed. Touches nobody else's processes, so that it may be used in programs that
//! embed hpcdag.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The variable by which a process is known.
const VARIABLE: &[u8] = b"HPCDAG_TASK_DIR=";

/// How often to look again: who is killed may have started others in between.
const ROUNDS: usize = 5;

/// SIGKILLs the processes that tasks of the worker with this local directory have left. Returns how many.
pub(super) fn kill_strays(directory: &Path) -> usize {
    let mut killed = BTreeSet::new();
    for _ in 0..ROUNDS {
        let found: Vec<i32> = strays(directory).into_iter().filter(|pid| !killed.contains(pid)).collect();
        if found.is_empty() {
            break;
        }
        for pid in found {
            // Gone in the meantime is what we want.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            killed.insert(pid);
        }
    }
    killed.len()
}

fn strays(directory: &Path) -> Vec<i32> {
    let Ok(proc) = std::fs::read_dir("/proc") else { return Vec::new() };
    // A task may have started the very process that this worker is in (hpcdag inside a task).
    let own = getpid().as_raw();
    let pids = proc.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own)
        .filter(|pid| {
            // Other users' processes cannot be read, and are none of ours.
            std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| is_of_task(&env, directory))
        })
        .collect()
}

/// Whether an environment names a task's directory inside this one.
fn is_of_task(environment: &[u8], directory: &Path) -> bool {
    let mut variables = environment.split(|b| *b == 0);
    let Some(value) = variables.find_map(|variable| variable.strip_prefix(VARIABLE)) else { return false };
    let inside = value.strip_prefix(directory.as_os_str().as_bytes());
    !directory.as_os_str().is_empty() && inside.is_some_and(|rest| rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_processes_of_these_tasks_end() {
        let start = |task: &str| {
            Command::new("sleep").arg("60").env("HPCDAG_TASK_DIR", task).spawn().expect("sleep starts")
        };
        let (mut ours, mut others) = (start("/strays/w1/t"), start("/strays/w11/t"));
        // Its environment is its own only once it has begun.
        let name = format!("/proc/{}/comm", ours.id());
        while std::fs::read_to_string(&name).is_ok_and(|name| name.trim() != "sleep") {
            std::thread::yield_now();
        }
        assert_eq!(kill_strays(Path::new("/strays/w1")), 1);
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(ours.wait().expect("ours").signal(), Some(9));
        assert!(others.try_wait().expect("ours").is_none());
        others.kill().expect("ours");
        others.wait().expect("ours");
    }

    #[test]
    fn the_directory_is_compared_as_a_whole() {
        let env = |value: &str| format!("A=1\0HPCDAG_TASK_DIR={value}\0B=2\0").into_bytes();
        assert!(is_of_task(&env("/w/1/t"), Path::new("/w/1")));
        assert!(!is_of_task(&env("/w/11/t"), Path::new("/w/1")));
        assert!(!is_of_task(&env("/w/1"), Path::new("/w/1")));
        assert!(!is_of_task(b"A=/w/1/t\0", Path::new("/w/1")));
    }
}
