//! What Slurm tells a process through its environment: the allocation with its nodes, processors, memory and
//! end, and the place of a process in a step. Owns the names of the variables and their traps; one thing that
//! older versions leave out, the end, is asked of `squeue`.

use super::hostlist;
use crate::base::error::{Error, Kind, Result};
use crate::base::units::parse_duration;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// A way of looking variables up.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// More nodes or tasks than any job has.
const COUNT_MAX: usize = 1 << 20;

/// A node of an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Slurm's name for it, which may differ from the host's.
    pub name: String,
    /// Processors of the job there.
    pub cpus: u32,
    /// The component of a heterogeneous job that it belongs to.
    pub het_group: Option<u32>,
}

/// The allocation that this process runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The job's id.
    pub job_id: String,
    /// Its nodes, in Slurm's order.
    pub nodes: Vec<Node>,
    /// When it ends, in seconds since 1970, if the environment says.
    pub end: Option<u64>,
    /// The node that this process is on; `None` on the submitting host (the shell of `salloc`).
    pub node: Option<String>,
}

impl Allocation {
    /// What the environment says; `None` outside of Slurm.
    ///
    /// # Errors
    /// `Launch` when a variable is not what Slurm writes.
    pub fn of(variables: Variables) -> Result<Option<Allocation>> {
        let Some(job_id) = value(variables, "SLURM_JOB_ID").or_else(|| value(variables, "SLURM_JOBID"))
        else {
            return Ok(None);
        };
        let mut nodes = Vec::new();
        match value(variables, "SLURM_HET_SIZE").and_then(|n| n.parse::<u32>().ok()) {
            Some(groups) => {
                for group in 0..groups.min(1000) {
                    let of_group = |name: &str| value(variables, &format!("{name}_HET_GROUP_{group}"));
                    add_nodes(&mut nodes, &of_group, Some(group))?;
                }
            }
            None => add_nodes(&mut nodes, variables, None)?,
        }
        if nodes.is_empty() {
            let what = format!("the environment names Slurm job {job_id} but none of its nodes");
            return Err(Error::new(Kind::Launch, what)
                .hint("SLURM_JOB_NODELIST is missing; were variables of another job carried along?"));
        }
        let end = value(variables, "SLURM_JOB_END_TIME").and_then(|t| t.parse().ok());
        Ok(Some(Allocation { job_id, nodes, end, node: value(variables, "SLURMD_NODENAME") }))
    }

    /// This process's allocation.
    ///
    /// # Errors
    /// As [`Allocation::of`].
    pub fn of_process() -> Result<Option<Allocation>> {
        Allocation::of(&of_process)
    }
}

/// This process's variables.
pub fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn value(variables: Variables, name: &str) -> Option<String> {
    variables(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
}

fn add_nodes(nodes: &mut Vec<Node>, variables: Variables, het_group: Option<u32>) -> Result<()> {
    let list = value(variables, "SLURM_JOB_NODELIST").or_else(|| value(variables, "SLURM_NODELIST"));
    let Some(list) = list else { return Ok(()) };
    let names = hostlist::parse(&list)?;
    let cpus = match value(variables, "SLURM_JOB_CPUS_PER_NODE") {
        Some(text) => counts(&text)?,
        None => Vec::new(),
    };
    // If there are fewer numbers than nodes, the last holds for the rest.
    let of_node = |at: usize| cpus.get(at).or(cpus.last()).copied().unwrap_or(1).max(1);
    let add = names.into_iter().enumerate().map(|(at, name)| Node { name, cpus: of_node(at), het_group });
    nodes.extend(add);
    Ok(())
}

/// A list of numbers in Slurm's short form: `72(x2),36` is 72, 72, 36.
///
/// # Errors
/// `Launch` when it is none.
pub fn counts(text: &str) -> Result<Vec<u32>> {
    let fault = || Error::new(Kind::Launch, format!("{text:?} is not a list such as 72(x2),36"));
    let mut counts = Vec::new();
    for part in text.trim().split(',') {
        let (number, times) = match part.split_once("(x") {
            Some((number, times)) => (number, times.strip_suffix(')').ok_or_else(fault)?),
            None => (part, "1"),
        };
        let number: u32 = number.trim().parse().map_err(|_| fault())?;
        let times: usize = times.parse().map_err(|_| fault())?;
        if counts.len().saturating_add(times) > COUNT_MAX {
            return Err(fault());
        }
        counts.extend(std::iter::repeat_n(number, times));
    }
    Ok(counts)
}

/// Variables about memory as they are for the tasks of one component of a heterogeneous job: in its shells
/// they stand with the component's number, or without and are the first one's. `None` where it has none.
pub fn memory_of_component(variables: Variables, het_group: u32) -> [(&'static str, Option<String>); 2] {
    ["SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"]
        .map(|name| (name, value(variables, &format!("{name}_HET_GROUP_{het_group}"))))
}

/// How many processors a worker in a step was meant to have, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Processors of the job on this node.
    pub job_cpus: u32,
    /// Tasks of this step on this node.
    pub tasks: u32,
}

impl Share {
    /// Of this process, if it is a task of a step.
    pub fn of(variables: Variables) -> Option<Share> {
        let allocation = Allocation::of(variables).ok()??;
        let name = allocation.node.as_deref()?;
        value(variables, "SLURM_STEP_ID").or_else(|| value(variables, "SLURM_STEPID"))?;
        let node = allocation.nodes.iter().find(|n| n.name == name)?;
        let at = value(variables, "SLURM_NODEID").and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        let list = value(variables, "SLURM_STEP_TASKS_PER_NODE").and_then(|t| counts(&t).ok());
        let of_step = list.and_then(|tasks| tasks.get(at).copied());
        let tasks = of_step.or_else(|| value(variables, "SLURM_NTASKS_PER_NODE")?.parse().ok()).unwrap_or(1);
        Some(Share { job_cpus: node.cpus, tasks: tasks.max(1) })
    }

    /// What to tell a worker that may use only `own` of the `online` processors of its machine: nothing, or
    /// the flag that is missing.
    pub fn complaint(&self, own: u32, online: u32) -> Option<String> {
        let meant = (self.job_cpus / self.tasks).max(1).min(online);
        if own >= meant {
            return None;
        }
        let workers = match self.tasks {
            1 => "this is the only worker of its step here".to_owned(),
            n => format!("{n} workers of its step share them"),
        };
        Some(format!(
            "this worker may use {own} processors, but the job has {} on this node and {workers}: start it \
             by srun --cpus-per-task={meant} (-c {meant}), or set SRUN_CPUS_PER_TASK={meant}",
            self.job_cpus
        ))
    }
}

/// How much time a job has left, asked of `squeue` once; `None` when it has no end.
///
/// # Errors
/// `Launch` when there is no `squeue`, or it does not answer with a time.
pub fn time_left(job_id: &str) -> Result<Option<Duration>> {
    let fault =
        |what: String| Error::new(Kind::Launch, format!("squeue cannot tell when job {job_id} ends: {what}"));
    let asked = Command::new("squeue").args(["--noheader", "--format=%L", "--jobs", job_id]).output();
    let answer = asked.map_err(|e| fault(e.to_string()))?;
    if !answer.status.success() {
        return Err(fault(String::from_utf8_lossy(&answer.stderr).trim().to_owned()));
    }
    let text = String::from_utf8_lossy(&answer.stdout).lines().next().unwrap_or_default().trim().to_owned();
    read_time_left(&text).ok_or_else(|| fault(format!("{text:?} is not a time")))
}

/// A time left as `squeue` writes it; inside, `None` for none.
fn read_time_left(text: &str) -> Option<Option<Duration>> {
    match text {
        "UNLIMITED" | "NOT_SET" | "N/A" | "INVALID" => Some(None),
        // `squeue` counts on while a job is being ended.
        late if late.starts_with('-') => Some(Some(Duration::ZERO)),
        text => parse_duration(text).ok().map(Some),
    }
}

/// When this process's job ends: what the environment says, else one question to `squeue`. `None` outside of
/// jobs and for those without an end.
///
/// # Errors
/// As [`time_left`].
pub fn end_of_job(variables: Variables) -> Result<Option<SystemTime>> {
    let Some(job_id) = value(variables, "SLURM_JOB_ID") else { return Ok(None) };
    if let Some(end) = value(variables, "SLURM_JOB_END_TIME").and_then(|t| t.parse().ok()) {
        return Ok(SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end)));
    }
    Ok(time_left(&job_id)?.and_then(|left| SystemTime::now().checked_add(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    }

    /// As the shell of `salloc -N3` sees it in Slurm 22.05.
    const SALLOC: &[(&str, &str)] = &[
        ("SLURM_JOB_ID", "7"),
        ("SLURM_JOB_NODELIST", "n[08-10]"),
        ("SLURM_JOB_CPUS_PER_NODE", "72(x2),36"),
        ("SLURM_JOB_NUM_NODES", "3"),
    ];

    #[test]
    fn an_allocation_is_read() {
        assert_eq!(Allocation::of(&with(&[])).unwrap(), None);
        let allocation = Allocation::of(&with(SALLOC)).unwrap().unwrap();
        let nodes: Vec<_> = allocation.nodes.iter().map(|n| (n.name.as_str(), n.cpus)).collect();
        assert_eq!(nodes, [("n08", 72), ("n09", 72), ("n10", 36)]);
        assert_eq!((allocation.job_id.as_str(), allocation.end, allocation.node), ("7", None, None));
        let more = [SALLOC, &[("SLURM_JOB_END_TIME", "1700000000"), ("SLURMD_NODENAME", "n08")]].concat();
        let allocation = Allocation::of(&with(&more)).unwrap().unwrap();
        assert_eq!((allocation.end, allocation.node.as_deref()), (Some(1_700_000_000), Some("n08")));
        let error = Allocation::of(&with(&[("SLURM_JOB_ID", "7")])).unwrap_err();
        assert!(error.message.contains("job 7"), "{error}");
        assert!(Allocation::of(&with(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_NODELIST", "n[")])).is_err());
    }

    #[test]
    fn components_of_a_heterogeneous_job_are_kept_apart() {
        let job = with(&[
            ("SLURM_JOB_ID", "9"),
            ("SLURM_HET_SIZE", "2"),
            ("SLURM_JOB_NODELIST_HET_GROUP_0", "big1"),
            ("SLURM_JOB_CPUS_PER_NODE_HET_GROUP_0", "128"),
            ("SLURM_JOB_NODELIST_HET_GROUP_1", "n[1-2]"),
            ("SLURM_JOB_CPUS_PER_NODE_HET_GROUP_1", "36(x2)"),
            ("SLURM_JOB_NODELIST", "big1"),
        ]);
        let nodes = Allocation::of(&job).unwrap().unwrap().nodes;
        let nodes: Vec<_> = nodes.iter().map(|n| (n.name.as_str(), n.cpus, n.het_group)).collect();
        assert_eq!(nodes, [("big1", 128, Some(0)), ("n1", 36, Some(1)), ("n2", 36, Some(1))]);
    }

    #[test]
    fn numbers_are_read() {
        assert_eq!(counts("72(x2),36").unwrap(), [72, 72, 36]);
        assert_eq!(counts("4").unwrap(), [4]);
        for text in ["", "a", "4(x", "4(xa)", "4(x2", "1,,2", "1(x99999999)"] {
            assert!(counts(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_flag_is_named() {
        let step = |more: &[(&'static str, &'static str)]| {
            let step = [("SLURMD_NODENAME", "n10"), ("SLURM_STEP_ID", "0"), ("SLURM_NODEID", "2")];
            Share::of(&with(&[SALLOC, &step, more].concat()))
        };
        assert_eq!(Share::of(&with(SALLOC)), None, "not on a node");
        let share = step(&[("SLURM_STEP_TASKS_PER_NODE", "1(x2),2")]).unwrap();
        assert_eq!(share, Share { job_cpus: 36, tasks: 2 });
        assert_eq!(step(&[("SLURM_NTASKS_PER_NODE", "3")]).unwrap().tasks, 3);
        assert_eq!(step(&[]).unwrap().tasks, 1);
        assert_eq!(share.complaint(18, 72), None);
        let complaint = share.complaint(1, 72).unwrap();
        assert!(complaint.contains("-c 18") && complaint.contains("SRUN_CPUS_PER_TASK"), "{complaint}");
        assert_eq!(share.complaint(2, 2), None, "no machine gives more than it has");
    }

    #[test]
    fn times_left_are_read() {
        let seconds = |text| read_time_left(text).map(|left| left.map(|d| d.as_secs()));
        assert_eq!(seconds("5:00"), Some(Some(300)));
        assert_eq!(seconds("1-02:00:01"), Some(Some(86400 + 7201)));
        assert_eq!(seconds("0:00"), Some(Some(0)));
        assert_eq!(seconds("-0:03"), Some(Some(0)));
        assert_eq!([seconds("UNLIMITED"), seconds("INVALID")], [Some(None), Some(None)]);
        assert_eq!([seconds(""), seconds("slurm_load_jobs error")], [None, None]);
    }
}
