//! The sections of jobqueue.yaml: `[launch.slurm]`, `[launch.pbs]`, `[launch.sge]`, and a pool for each
//! section under another name. Owns what dask-jobqueue's keys mean for jobs.

use super::yaml::Node;
use super::{Import, size, time};
use toml::Value;

/// Batch systems that hpcdag does not know.
const OTHERS: &[&str] = &["lsf", "oar", "moab", "htcondor", "local"];

/// Keys that need a word, and the word.
const ABSENT: &[(&str, &str)] = &[
    ("name", "the job's name is --job-name, or job_name= of the cluster"),
    ("processes", "processes= of the cluster, or worker.python.processes"),
    ("python", "python= of the cluster"),
    ("shared-temp-directory", "has no meaning here"),
    ("shebang", "job scripts are for bash"),
    ("worker-command", "has no meaning here"),
    ("extra", "worker_extra_args= of the cluster"),
    ("worker-extra-args", "worker_extra_args= of the cluster"),
    ("log-directory", "--output, or log_directory= of the cluster"),
    ("scheduler-options", "scheduler_options= of the cluster, or [scheduler]"),
    ("disk", "has no meaning here"),
];

/// What a batch system is called here, and what is called differently there.
#[derive(Clone, Copy, PartialEq)]
enum System {
    Slurm,
    Pbs,
    GridEngine,
    Unknown,
}

impl System {
    /// By the name of the section, else by what only one system has.
    fn of(name: &str, section: &Node) -> System {
        match name {
            "slurm" => return System::Slurm,
            "pbs" => return System::Pbs,
            "sge" => return System::GridEngine,
            _ => {}
        }
        let has = |key: &str| section.get(key).is_some();
        match section.get("resource-spec").and_then(Node::text) {
            Some(text) if text.contains("select=") => System::Pbs,
            Some(_) => System::GridEngine,
            None if has("job-cpu") || has("job-mem") || name.contains("slurm") => System::Slurm,
            None if name.contains("pbs") => System::Pbs,
            None => System::Unknown,
        }
    }

    fn launcher(self) -> Option<&'static str> {
        match self {
            System::Slurm => Some("sbatch"),
            System::Pbs => Some("pbs"),
            System::GridEngine => Some("sge"),
            System::Unknown => None,
        }
    }
}

impl Import {
    /// Adds what stands below `jobqueue`.
    pub(super) fn add_jobqueue(&mut self, sections: &Node) {
        let Node::Map(sections) = sections else {
            if !sections.is_empty() {
                self.miss("jobqueue", "expected a mapping of batch systems");
            }
            return;
        };
        for (name, section) in sections {
            if OTHERS.contains(&name.as_str()) {
                self.miss(&format!("jobqueue.{name}"), "hpcdag knows Slurm, PBS and Grid Engine");
            } else {
                self.add_section(name, section);
            }
        }
    }

    fn add_section(&mut self, name: &str, section: &Node) {
        let Node::Map(entries) = section else { return };
        let from = format!("jobqueue.{name}");
        let system = System::of(name, section);
        let mut place = vec!["launch"];
        let table = match name {
            "slurm" | "pbs" | "sge" => name.to_owned(),
            _ => {
                place.push("pool");
                let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
                name.chars().map(|c| if fits(c) { c } else { '-' }).collect()
            }
        };
        place.push(&table);
        if place.len() > 2 {
            match system.launcher() {
                Some(launcher) => self.put(&place, "launcher", launcher.into()),
                None => self.miss(
                    &from,
                    &format!("add launcher = \"sbatch\", \"pbs\" or \"sge\" to [launch.pool.{table}]"),
                ),
            }
        }
        for (key, value) in entries.iter().filter(|(_, value)| !value.is_empty()) {
            self.add_key(&from, &place, system, (key, value), section);
        }
    }

    fn add_key(&mut self, from: &str, place: &[&str], system: System, entry: (&str, &Node), section: &Node) {
        let (key, value) = entry;
        let whole = format!("{from}.{key}");
        let text = value.text().map(Value::String);
        let list = value.lines().map(|lines| {
            let lines = lines.into_iter().filter(|line| !line.is_empty());
            Value::Array(lines.map(Value::String).collect())
        });
        let (ours, converted) = match key {
            // What is asked for counts where it is not what the worker uses.
            "cores" if section.get("job-cpu").is_some() => {
                return self.miss(&whole, "-c, or cores= of the cluster, for fewer slots than processors");
            }
            "cores" | "job-cpu" => ("cpus", value.to_toml().filter(Value::is_integer)),
            "memory" if section.get("job-mem").is_some() => {
                return self.miss(&whole, "worker.memory-limit, for less than the job's memory");
            }
            "memory" | "job-mem" => ("memory", size(value).map(Value::String)),
            "queue" if matches!(system, System::Slurm) => ("partition", text),
            "queue" if system == System::Unknown => {
                return self.miss(&whole, "partition, or queue, of the pool");
            }
            "queue" => ("queue", text),
            "account" | "project" => ("account", text),
            "walltime" => ("walltime", text),
            "job-extra-directives" | "job-extra" => ("directives", list),
            "job-directives-skip" | "header-skip" => ("remove-directives", list),
            "job-script-prologue" | "env-extra" => ("prologue", list),
            "job-script-epilogue" => ("epilogue", list),
            "submit-command-extra" => ("options", list),
            "resource-spec" => return self.resource_spec(&whole, place, system, value),
            // These are settings of workers, not of jobs.
            "interface" => return self.interface(value),
            "local-directory" => ("worker.local-directory", text),
            "death-timeout" => ("worker.death-timeout", time(value).map(Value::String)),
            key => {
                let why = ABSENT.iter().find(|(absent, _)| *absent == key).map_or("", |(_, why)| why);
                if key != "processes" || *value != Node::Int(1) {
                    self.miss(&whole, why);
                }
                return;
            }
        };
        match converted {
            Some(value) if ours.contains('.') => self.set(ours, value),
            Some(value) => self.put(place, ours, value),
            None => self.miss(&whole, &format!("{} is nothing that {ours} takes", value.shown())),
        }
    }

    fn interface(&mut self, value: &Node) {
        let Some(name) = value.text() else { return };
        for section in ["scheduler", "worker"] {
            self.set(&format!("{section}.interface"), Value::Array(vec![name.clone().into(), "auto".into()]));
        }
    }

    /// `select=1:ncpus=36:mem=109GB` of PBS is processors and memory; Grid Engine's is an option as it is.
    fn resource_spec(&mut self, whole: &str, place: &[&str], system: System, value: &Node) {
        let Some(text) = value.text() else { return };
        if system != System::Pbs {
            return self.put(place, "directives", Value::Array(vec![format!("-l {text}").into()]));
        }
        for part in text.trim_start_matches("select=").split(':').skip(1) {
            match part.split_once('=') {
                Some(("ncpus", n)) if n.parse::<i64>().is_ok() => {
                    self.put(place, "cpus", Value::Integer(n.parse().unwrap_or(1)));
                }
                Some(("mem", amount)) if size(&Node::Text(amount.to_uppercase())).is_some() => {
                    self.put(place, "memory", amount.to_uppercase().into());
                }
                Some(("ngpus", n)) if n.parse::<i64>().is_ok() => {
                    self.put(place, "gpus", Value::Integer(n.parse().unwrap_or(1)));
                }
                // One worker on each node, whatever it says.
                Some(("mpiprocs" | "ompthreads", _)) => {}
                _ => self.miss(whole, &format!("{part}: write it into directives")),
            }
        }
    }

    fn put(&mut self, place: &[&str], key: &str, value: Value) {
        let path: Vec<&str> = place.iter().copied().chain([key]).collect();
        super::insert(&mut self.settings, &path, value);
    }
}
