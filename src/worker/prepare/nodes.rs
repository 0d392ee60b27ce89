//! The nodes of a task that starts an MPI program, or one like it: what it is told of them, and the line that
//! starts ranks on them. Owns the words of `{mpirun}` and the variables of a nested `srun`; who the nodes
//! are is the scheduler's choice.

use crate::base::error::{Error, Kind, Result};
use crate::graph::spec::TaskSpec;
use std::path::{Path, PathBuf};

/// Slots of one thread, in 1/10,000.
const THREAD: u32 = crate::graph::layer::SLOT;

/// What can stand in `worker.mpirun`.
const WORDS: [&str; 6] = ["ranks", "ranks-per-node", "threads", "nodes", "nodelist", "hostfile"];

/// A node that a task has to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its host, by the batch system's name for it where there is one.
    pub host: String,
    /// Its worker's slots, 1/10,000.
    pub slots: u32,
}

/// Ranks on nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// Hosts and how many ranks each gets, at least 1.
    on: Vec<(String, u32)>,
    /// Threads of each rank.
    threads: u32,
}

impl Ranks {
    /// The ranks of a task: as many on each node as it says, else as its threads allow there. A task on a
    /// part of one node has `here` alone.
    pub fn of(spec: &TaskSpec, nodes: &[Node], here: &str) -> Ranks {
        let threads = spec.nthreads.max(1);
        let said = spec.nodes.and_then(|n| n.ranks);
        if nodes.is_empty() {
            // Of a part of a node it has as many threads as it asks for: a rank for each.
            return Ranks { on: vec![(here.to_string(), said.unwrap_or(threads))], threads: 1 };
        }
        let each = |node: &Node| said.unwrap_or(node.slots / THREAD / threads).max(1);
        Ranks { on: nodes.iter().map(|node| (node.host.clone(), each(node))).collect(), threads }
    }

    /// How many there are.
    fn total(&self) -> u32 {
        self.on.iter().fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// The hosts, with commas.
    pub fn list(&self) -> String {
        self.on.iter().map(|(host, _)| host.as_str()).collect::<Vec<_>>().join(",")
    }

    /// A host file as Open MPI, and most others, read it.
    pub fn host_file(&self) -> String {
        self.on.iter().map(|(host, n)| format!("{host} slots={n}\n")).collect()
    }

    /// One line a rank: what `srun` reads from `SLURM_HOSTFILE`.
    fn rank_file(&self) -> String {
        self.on.iter().map(|(host, n)| format!("{host}\n").repeat(*n as usize)).collect()
    }

    /// How many on each node, as Slurm writes it: `4(x3)` or `4,2`.
    fn per_node(&self) -> String {
        let n = self.on[0].1;
        match self.on.len() {
            1 => n.to_string(),
            nodes if self.on.iter().all(|(_, x)| *x == n) => format!("{n}(x{nodes})"),
            _ => self.on.iter().map(|(_, n)| n.to_string()).collect::<Vec<_>>().join(","),
        }
    }

    /// The line that starts them: the site's, else `srun` in a Slurm job, else `mpirun`.
    ///
    /// # Errors
    /// The site's has something in braces that is not known.
    pub fn launcher(&self, site: &[String], in_slurm: bool, host_file: &Path) -> Result<Vec<String>> {
        let slurm = [
            "srun",
            "--overlap",
            "--nodes={nodes}",
            "--ntasks={ranks}",
            "--cpus-per-task={threads}",
            "--nodelist={nodelist}",
            // Not by `SLURM_HOSTFILE`, which is for an `srun` that says nothing.
            "--distribution=block",
        ];
        let plain = ["mpirun", "-np", "{ranks}", "--hostfile", "{hostfile}"];
        let words: Vec<&str> = match (site.is_empty(), in_slurm) {
            (false, _) => site.iter().map(String::as_str).collect(),
            (true, true) => slurm.to_vec(),
            (true, false) => plain.to_vec(),
        };
        let file = host_file.to_str().unwrap_or_default();
        words.into_iter().map(|word| self.fill(word, file)).collect()
    }

    /// The variables of an `srun`, or of an MPI library's own launcher, inside a Slurm job, such that it
    /// takes these nodes for all there are. `rank_file` is where `SLURM_HOSTFILE` lies: of the others `srun`
    /// takes the numbers only and goes to the first nodes of the job (seen with Slurm 22.05).
    pub fn slurm_variables(&self, rank_file: &Path) -> Vec<(&'static str, String)> {
        let (nodes, ranks) = (self.on.len().to_string(), self.total().to_string());
        let processors: Vec<String> = self.on.iter().map(|(_, n)| (n * self.threads).to_string()).collect();
        vec![
            ("SLURM_HOSTFILE", rank_file.to_string_lossy().into_owned()),
            ("SLURM_JOB_NODELIST", self.list()),
            ("SLURM_NODELIST", self.list()),
            ("SLURM_JOB_NUM_NODES", nodes.clone()),
            ("SLURM_NNODES", nodes),
            ("SLURM_NTASKS", ranks.clone()),
            ("SLURM_NPROCS", ranks),
            ("SLURM_TASKS_PER_NODE", self.per_node()),
            ("SLURM_CPUS_PER_TASK", self.threads.to_string()),
            ("SLURM_JOB_CPUS_PER_NODE", processors.join(",")),
        ]
    }

    /// Writes the host file and the file of ranks into a task's directory; their paths.
    pub fn write_files(&self, dir: &Path) -> Result<(PathBuf, PathBuf)> {
        let (hosts, ranks) = (dir.join(".hpcdag-hosts"), dir.join(".hpcdag-ranks"));
        for (path, text) in [(&hosts, self.host_file()), (&ranks, self.rank_file())] {
            std::fs::write(path, text).map_err(|e| Error::file("cannot write", path, &e))?;
        }
        Ok((hosts, ranks))
    }

    fn fill(&self, word: &str, host_file: &str) -> Result<String> {
        let values = [
            self.total().to_string(),
            self.on[0].1.to_string(),
            self.threads.to_string(),
            self.on.len().to_string(),
            self.list(),
            host_file.to_string(),
        ];
        let mut filled = word.to_string();
        for (name, value) in WORDS.iter().zip(&values) {
            filled = filled.replace(&format!("{{{name}}}"), value);
        }
        if check_word(word).is_some() {
            return Err(Error::new(Kind::Config, format!("worker.mpirun has `{word}`")).hint(known()));
        }
        Ok(filled)
    }
}

/// What a word of `worker.mpirun` has in braces that is not known.
fn check_word(word: &str) -> Option<&str> {
    let inside = word.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name));
    inside.into_iter().find(|name| !WORDS.contains(name))
}

fn known() -> String {
    format!("known are {}", WORDS.map(|name| format!("{{{name}}}")).join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(slots: &[u32]) -> Vec<Node> {
        let node = |(k, n): (usize, &u32)| Node { host: format!("n{}", k + 1), slots: n * THREAD };
        slots.iter().enumerate().map(node).collect()
    }

    fn ranks(slots: &[u32], threads: u32) -> Ranks {
        let on = nodes(slots).iter().map(|n| (n.host.clone(), n.slots / THREAD / threads)).collect();
        Ranks { on, threads }
    }

    #[test]
    fn the_line_that_starts_them() {
        let line = |site: &[&str], in_slurm| {
            let site: Vec<String> = site.iter().map(|w| w.to_string()).collect();
            ranks(&[4, 4, 2], 2).launcher(&site, in_slurm, Path::new("/t/hosts")).map(|words| words.join(" "))
        };
        assert_eq!(line(&[], false).unwrap(), "mpirun -np 5 --hostfile /t/hosts");
        let slurm = "srun --overlap --nodes=3 --ntasks=5 --cpus-per-task=2 --nodelist=n1,n2,n3 \
                     --distribution=block";
        assert_eq!(line(&[], true).unwrap(), slurm);
        let site = ["aprun", "-n", "{ranks}", "-N", "{ranks-per-node}", "-L", "{nodelist}"];
        assert_eq!(line(&site, true).unwrap(), "aprun -n 5 -N 2 -L n1,n2,n3");
        let error = line(&["mpiexec", "-n{cores}"], false).unwrap_err();
        assert!(error.to_string().contains("{cores}"), "{error}");
    }

    #[test]
    fn files_and_variables_say_the_same() {
        let ranks = ranks(&[2, 1], 1);
        assert_eq!(ranks.host_file(), "n1 slots=2\nn2 slots=1\n");
        assert_eq!(ranks.rank_file(), "n1\nn1\nn2\n");
        let variables = ranks.slurm_variables(Path::new("/r"));
        let of = |name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        assert_eq!((of("SLURM_NNODES"), of("SLURM_NTASKS")), (Some("2"), Some("3")));
        assert_eq!((of("SLURM_TASKS_PER_NODE"), of("SLURM_HOSTFILE")), (Some("2,1"), Some("/r")));
        assert_eq!(super::tests::ranks(&[4, 4], 1).per_node(), "4(x2)");
    }
}
