//! The job scripts that stand ready in `slurm/`, `pbs/` and `sge/`: what they ask for. Owns their contents,
//! which the same templates render as those of jobs that hpcdag submits itself; `scripts/bless` writes the
//! files.

use super::dialect::{Request, System};
use super::template::{Context, Purpose, built_in, render};
use crate::base::error::Result;
use std::time::Duration;

/// A ready script.
struct Ready {
    path: &'static str,
    system: System,
    purpose: Purpose,
    about: &'static [&'static str],
    /// One for each component of a heterogeneous job.
    requests: Vec<Request>,
}

/// All ready scripts: paths from the root of the repository, and their text.
///
/// # Errors
/// None that a test of this module would not find.
pub fn ready() -> Result<Vec<(&'static str, String)>> {
    let of_slurm = slurm().into_iter();
    of_slurm.chain(pbs()).chain(sge()).map(|script| Ok((script.path, text(&script)?))).collect()
}

fn text(script: &Ready) -> Result<String> {
    let groups = script.requests.iter().map(|r| script.system.directives(r)).collect::<Result<Vec<_>>>()?;
    let first = script.requests.first().cloned().unwrap_or_default();
    let file = match script.system {
        // qsub of PBS hands no arguments to a script.
        System::Pbs => "SCHEDULER_FILE:?submit this with -v SCHEDULER_FILE=FILE",
        System::Slurm | System::GridEngine => "1:?name the scheduler file as the first argument",
    };
    let context = Context {
        system: script.system.key().into(),
        directives: groups.first().cloned().unwrap_or_default(),
        groups,
        about: script.about.iter().map(|line| (*line).to_owned()).collect(),
        name: first.name,
        nodes: first.nodes,
        jobs: first.jobs,
        cpus: first.cpus,
        program: "hpcdag".into(),
        program_word: "\"$(command -v hpcdag)\"".into(),
        scheduler_file_word: format!("$(realpath -- \"${{{file}}}\") || exit"),
        graph_word: "${GRAPH:?submit this with -v GRAPH=FILE}".into(),
        ..Context::default()
    };
    render(script.path, built_in(script.system, script.purpose), &context.complete())
}

/// What all ask for: one hour on four nodes, to be changed by whoever copies the script.
fn request(name: &str) -> Request {
    Request {
        name: name.into(),
        nodes: 4,
        jobs: 1,
        walltime: Some(Duration::from_secs(3600)),
        requeue: false,
        ..Request::default()
    }
}

fn slurm() -> Vec<Ready> {
    let log = |request: Request| Request { output: Some("%x-%j.log".into()), ..request };
    let run = Request { requeue: true, ..log(request("hpcdag-run")) };
    let small = ["--job-name", "--output", "--time", "--requeue", "--open-mode"];
    let others = Request {
        nodes: 3,
        cpus: Some(4),
        memory: Some(2 << 30),
        removed_directives: small.map(str::to_owned).to_vec(),
        ..run.clone()
    };
    let large = Request { nodes: 1, cpus: Some(4), memory: Some(3 << 30), ..run.clone() };
    vec![
        Ready {
            path: "slurm/run.sh",
            system: System::Slurm,
            purpose: Purpose::Run,
            about: &[
                "A whole run as one job: scheduler, a worker on each node, a graph, and the end of it all.",
                "",
                "    sbatch slurm/run.sh GRAPH.toml [options of hpcdag submit]",
            ],
            requests: vec![run],
        },
        Ready {
            path: "slurm/run-het.sh",
            system: System::Slurm,
            purpose: Purpose::Run,
            about: &[
                "The same as a heterogeneous job: one node with much memory, and three others. Workers offer",
                "what their node has; tasks that ask for much memory go where it is.",
                "",
                "    sbatch slurm/run-het.sh GRAPH.toml [options of hpcdag submit]",
            ],
            requests: vec![large, others],
        },
        Ready {
            path: "slurm/workers.sh",
            system: System::Slurm,
            purpose: Purpose::Workers,
            about: &[
                "Workers for a cluster that is running, one on each node of one job.",
                "",
                "    sbatch slurm/workers.sh SCHEDULER_FILE",
            ],
            requests: vec![log(request("hpcdag-workers"))],
        },
        Ready {
            path: "slurm/workers-array.sh",
            system: System::Slurm,
            purpose: Purpose::Workers,
            about: &[
                "Workers for a cluster that is running, as an array of jobs with one node each: they start",
                "as nodes become free.",
                "",
                "    sbatch slurm/workers-array.sh SCHEDULER_FILE",
            ],
            requests: vec![Request {
                nodes: 1,
                jobs: 4,
                output: Some("%x-%A_%a.log".into()),
                ..request("hpcdag-workers")
            }],
        },
    ]
}

fn pbs() -> Vec<Ready> {
    let of = |name: &str| Request { cpus: Some(8), memory: Some(16 << 30), ..request(name) };
    vec![
        Ready {
            path: "pbs/run.sh",
            system: System::Pbs,
            purpose: Purpose::Run,
            about: &[
                "A whole run as one job: scheduler, a worker on each node, a graph, and the end of it all.",
                "",
                "    qsub -v GRAPH=graph.toml pbs/run.sh",
            ],
            requests: vec![Request { requeue: true, ..of("hpcdag-run") }],
        },
        Ready {
            path: "pbs/workers.sh",
            system: System::Pbs,
            purpose: Purpose::Workers,
            about: &[
                "Workers for a cluster that is running, one on each node of one job.",
                "",
                "    qsub -v SCHEDULER_FILE=$HOME/s.json pbs/workers.sh",
            ],
            requests: vec![of("hpcdag-workers")],
        },
        Ready {
            path: "pbs/workers-array.sh",
            system: System::Pbs,
            purpose: Purpose::Workers,
            about: &[
                "Workers for a cluster that is running, as an array of jobs with one node each: they start",
                "as nodes become free.",
                "",
                "    qsub -v SCHEDULER_FILE=$HOME/s.json pbs/workers-array.sh",
            ],
            requests: vec![Request { nodes: 1, jobs: 4, ..of("hpcdag-workers") }],
        },
    ]
}

fn sge() -> Vec<Ready> {
    let of = |name: &str, environment: &str| Request {
        cpus: Some(8),
        parallel_environment: Some(environment.into()),
        output: Some("$JOB_NAME.$JOB_ID.log".into()),
        extra_directives: vec!["-cwd".into()],
        ..request(name)
    };
    vec![
        Ready {
            path: "sge/run.sh",
            system: System::GridEngine,
            purpose: Purpose::Run,
            about: &[
                "A whole run as one job: scheduler, a worker on each host, a graph, and the end of it all.",
                "Set -pe to a parallel environment of your site (qconf -spl lists them).",
                "",
                "    qsub sge/run.sh GRAPH.toml [options of hpcdag submit]",
            ],
            requests: vec![Request { requeue: true, ..of("hpcdag-run", "mpi") }],
        },
        Ready {
            path: "sge/workers.sh",
            system: System::GridEngine,
            purpose: Purpose::Workers,
            about: &[
                "Workers for a cluster that is running, one on each host of the parallel environment.",
                "Set -pe to a parallel environment of your site (qconf -spl lists them).",
                "",
                "    qsub sge/workers.sh SCHEDULER_FILE",
            ],
            requests: vec![of("hpcdag-workers", "mpi")],
        },
        Ready {
            path: "sge/workers-array.sh",
            system: System::GridEngine,
            purpose: Purpose::Workers,
            about: &[
                "Workers for a cluster that is running, as an array of jobs on one host each: they start as",
                "slots become free. Set -pe to a parallel environment that keeps to one host.",
                "",
                "    qsub sge/workers-array.sh SCHEDULER_FILE",
            ],
            requests: vec![Request {
                nodes: 1,
                jobs: 4,
                output: Some("$JOB_NAME.$JOB_ID.$TASK_ID.log".into()),
                ..of("hpcdag-workers", "smp")
            }],
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn ready_scripts_like_docs_are_current() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let scripts = ready().unwrap();
        for (path, text) in &scripts {
            if std::env::var_os("HPCDAG_BLESS").is_some() {
                use std::os::unix::fs::PermissionsExt;
                std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
                std::fs::write(root.join(path), text).unwrap();
                std::fs::set_permissions(root.join(path), PermissionsExt::from_mode(0o755)).unwrap();
            }
            let kept = std::fs::read_to_string(root.join(path)).unwrap_or_default();
            assert!(kept == *text, "{path} is not what its template renders: run scripts/bless");
        }
        for system in System::ALL {
            for entry in std::fs::read_dir(root.join(system.key())).unwrap() {
                let name = format!("{}/{}", system.key(), entry.unwrap().file_name().to_string_lossy());
                let known = scripts.iter().any(|(path, _)| *path == name);
                assert!(known || name.ends_with(".md"), "{name} is rendered by nothing");
            }
        }
    }
}
