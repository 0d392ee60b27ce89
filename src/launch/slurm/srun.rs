//! Steps of `srun` that hold workers or a scheduler: which nodes go into one step, its command line, and what
//! it says about tasks that ended. Owns these; who starts the process and waits is the caller.

use super::environment::{Allocation, Node};
use super::hostlist;
use crate::base::error::{Error, Kind, Result};
use std::ffi::OsString;
use std::path::Path;

/// Variables by which a site, a batch script or the step around this process would change what the command
/// line says. They are removed for `srun`.
pub const NOT_INHERITED: &[&str] = &[
    "SLURM_CPU_BIND",
    "SLURM_CPU_BIND_LIST",
    "SLURM_CPU_BIND_TYPE",
    "SLURM_CPU_BIND_VERBOSE",
    "SLURM_MEM_BIND",
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_NTASKS_PER_CORE",
    "SLURM_NTASKS_PER_SOCKET",
    "SLURM_CPUS_PER_TASK",
    "SRUN_CPUS_PER_TASK",
    "SLURM_TASKS_PER_NODE",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_DISTRIBUTION",
    "SLURM_EXCLUSIVE",
    "SLURM_EXACT",
    "SLURM_THREADS_PER_CORE",
    "SLURM_HINT",
    "SLURM_KILL_BAD_EXIT",
    "SLURM_WAIT",
    "SLURM_NO_KILL",
    "SLURM_STDINMODE",
    "SLURM_STDOUTMODE",
    "SLURM_STDERRMODE",
    "SLURM_LABELIO",
    "SLURM_EXPORT_ENV",
    "SLURM_HOSTFILE",
    "SLURM_REMOTE_CWD",
    "SLURM_STEP_ID",
    "SLURM_STEPID",
];

/// How many workers a node gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// One on each node.
    OnePerNode,
    /// So many altogether, as evenly as possible, the first nodes first.
    Total(u32),
    /// So many on each node, each bound to a NUMA domain of its own.
    Domains(u32),
}

/// Tasks that are started by one `srun`: nodes that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The nodes, in the order of the job.
    pub nodes: Vec<String>,
    /// Tasks on each.
    pub per_node: u32,
    /// Processors of each task.
    pub cpus: u32,
    /// The component of a heterogeneous job.
    pub het_group: Option<u32>,
    /// Whether each task is bound to a NUMA domain.
    pub by_domain: bool,
    /// Whether the scheduler is on these nodes too.
    pub beside_scheduler: bool,
}

impl Step {
    /// How many tasks it has.
    pub fn tasks(&self) -> u32 {
        self.per_node.saturating_mul(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX))
    }

    /// A single task with one processor on one node.
    pub fn single(node: &Node) -> Step {
        Step {
            nodes: vec![node.name.clone()],
            per_node: 1,
            cpus: 1,
            het_group: node.het_group,
            by_domain: false,
            beside_scheduler: true,
        }
    }

    /// The arguments of `srun` for it. `name` is the step's name; `output` is where each task writes, with
    /// Slurm's placeholders, or `None` for the output of `srun` itself.
    pub fn arguments(&self, name: &str, output: Option<&Path>, program: &[OsString]) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--overlap".into()];
        let mut add = |arg: String| args.push(arg.into());
        if let Some(group) = self.het_group {
            add(format!("--het-group={group}"));
        }
        add(format!("--nodes={}", self.nodes.len()));
        add(format!("--ntasks={}", self.tasks()));
        add(format!("--ntasks-per-node={}", self.per_node));
        add(format!("--nodelist={}", hostlist::format(&self.nodes)));
        add(format!("--cpus-per-task={}", self.cpus));
        add("--mem=0".into());
        add(format!("--cpu-bind={}", if self.by_domain { "ldoms" } else { "none" }));
        // A task of its own says by its place which node it is on.
        add("--distribution=block".into());
        for flag in ["--kill-on-bad-exit=0", "--wait=0", "--no-kill", "--unbuffered", "--mpi=none"] {
            add(flag.into());
        }
        for flag in ["--export=ALL", "--input=none", "--chdir=/"] {
            add(flag.into());
        }
        add(format!("--job-name={name}"));
        if let Some(output) = output {
            let flag = |name: &str| {
                let mut flag = OsString::from(name);
                flag.push(output);
                flag
            };
            args.extend([flag("--output="), flag("--error="), "--open-mode=append".into()]);
        }
        args.extend(program.iter().cloned());
        args
    }
}

/// The steps for workers on the nodes of an allocation. Nodes with as many processors, and as many workers,
/// make one step; that of the scheduler is on its own, for its workers have less memory.
///
/// # Errors
/// `Usage` when a node of that name is not in the allocation.
pub fn plan(allocation: &Allocation, spread: Spread, scheduler_on: Option<&str>) -> Result<Vec<Step>> {
    let nodes = &allocation.nodes;
    let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX).max(1);
    let workers_on = |at: usize| match spread {
        Spread::OnePerNode => 1,
        Spread::Domains(domains) => domains.max(1),
        Spread::Total(total) => total / count + u32::from((at as u64) < u64::from(total % count)),
    };
    if nodes.is_empty() {
        return Err(Error::new(Kind::Launch, format!("job {} has no nodes", allocation.job_id)));
    }
    let mut steps: Vec<Step> = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let per_node = workers_on(at);
        if per_node == 0 {
            continue;
        }
        let step = Step {
            nodes: Vec::new(),
            per_node,
            cpus: (node.cpus / per_node).max(1),
            het_group: node.het_group,
            by_domain: matches!(spread, Spread::Domains(_)),
            beside_scheduler: scheduler_on == Some(node.name.as_str()),
        };
        let alike = |s: &&mut Step| {
            (s.per_node, s.cpus, s.het_group, s.beside_scheduler)
                == (step.per_node, step.cpus, step.het_group, step.beside_scheduler)
        };
        match steps.iter_mut().find(alike) {
            Some(same) => same.nodes.push(node.name.clone()),
            None => steps.push(Step { nodes: vec![node.name.clone()], ..step }),
        }
    }
    Ok(steps)
}

/// A line of `srun` about one of its tasks: the hosts, and what it says.
///
/// `srun: error: n[2-3]: tasks 1-2: Exited with exit code 1` is about n2 and n3;
/// `srun: error: Node failure on n3` about n3.
pub fn end_of_tasks(line: &str) -> Option<(Vec<String>, &str)> {
    let said = line.trim().strip_prefix("srun: error: ")?;
    let hosts = match said.strip_prefix("Node failure on ") {
        Some(hosts) => hosts,
        None => {
            let (hosts, rest) = said.split_once(": ")?;
            rest.starts_with("task").then_some(hosts)?
        }
    };
    Some((hostlist::parse(hosts).ok()?, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(nodes: &[(&str, u32)]) -> Allocation {
        let node = |(name, cpus): &(&str, u32)| Node { name: (*name).into(), cpus: *cpus, het_group: None };
        Allocation { job_id: "7".into(), nodes: nodes.iter().map(node).collect(), end: None, node: None }
    }

    fn planned(nodes: &[(&str, u32)], spread: Spread, scheduler_on: Option<&str>) -> Vec<(String, u32, u32)> {
        let steps = plan(&allocation(nodes), spread, scheduler_on).unwrap();
        steps.iter().map(|s| (hostlist::format(&s.nodes), s.per_node, s.cpus)).collect()
    }

    #[test]
    fn nodes_that_are_alike_make_one_step() {
        let nodes = [("n1", 72), ("n2", 72), ("n3", 36)];
        let step = |nodes: &str, per_node, cpus| (nodes.to_owned(), per_node, cpus);
        assert_eq!(planned(&nodes, Spread::OnePerNode, None), [step("n[1-2]", 1, 72), step("n3", 1, 36)]);
        assert_eq!(
            planned(&nodes, Spread::OnePerNode, Some("n1")),
            [step("n1", 1, 72), step("n2", 1, 72), step("n3", 1, 36)]
        );
        assert_eq!(planned(&nodes, Spread::Total(2), None), [step("n[1-2]", 1, 72)]);
        assert_eq!(
            planned(&nodes, Spread::Total(4), None),
            [step("n1", 2, 36), step("n2", 1, 72), step("n3", 1, 36)]
        );
        assert_eq!(planned(&nodes, Spread::Domains(2), None), [step("n[1-2]", 2, 36), step("n3", 2, 18)]);
        assert_eq!(planned(&[("n1", 2)], Spread::Total(5), None), [step("n1", 5, 1)]);
        assert!(plan(&allocation(&[]), Spread::OnePerNode, None).is_err());
    }

    #[test]
    fn the_command_line() {
        let steps = plan(&allocation(&[("n1", 8), ("n2", 8)]), Spread::OnePerNode, None).unwrap();
        let args =
            steps[0].arguments("hpcdag-x", Some(Path::new("/l/w-%N-%n-%t.log")), &["/bin/hpcdag".into()]);
        let args: Vec<&str> = args.iter().filter_map(|a| a.to_str()).collect();
        assert_eq!(
            args.join(" "),
            "--overlap --nodes=2 --ntasks=2 --ntasks-per-node=1 --nodelist=n[1-2] --cpus-per-task=8 --mem=0 \
             --cpu-bind=none --distribution=block --kill-on-bad-exit=0 --wait=0 --no-kill --unbuffered \
             --mpi=none --export=ALL --input=none --chdir=/ --job-name=hpcdag-x --output=/l/w-%N-%n-%t.log \
             --error=/l/w-%N-%n-%t.log --open-mode=append /bin/hpcdag"
        );
        let node = Node { name: "b1".into(), cpus: 9, het_group: Some(1) };
        let args = Step::single(&node).arguments("s", None, &[]);
        assert!(args.contains(&"--het-group=1".into()) && args.contains(&"--cpus-per-task=1".into()));
    }

    #[test]
    fn ends_of_tasks_are_found() {
        let hosts = |line| end_of_tasks(line).map(|(hosts, _)| hosts.join(" "));
        assert_eq!(hosts("srun: error: n3: task 2: Exited with exit code 2"), Some("n3".into()));
        assert_eq!(hosts("srun: error: n[1-2]: tasks 0-1: Killed\n"), Some("n1 n2".into()));
        assert_eq!(hosts("srun: error: Node failure on n3"), Some("n3".into()));
        assert_eq!(hosts("srun: error: Unable to create step for job 3: More processors requested"), None);
        assert_eq!(hosts("srun: Job step aborted: Waiting up to 5 seconds"), None);
    }
}
