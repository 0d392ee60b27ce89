//! Importing Dask's files: what becomes what, what is listed, and that the result is a configuration.

use super::*;
use crate::config::Config;

fn import(text: &str) -> Import {
    let mut import = Import::default();
    import.add("x.yaml", text).unwrap();
    import
}

/// The result is read by the one who reads our files.
fn loaded(import: &Import) -> Config {
    let text = import.render().unwrap();
    Config::of_text("config.toml", &text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn distributed_yaml() {
    let import = import(
        r#"
temporary-directory: /scratch/$USER
distributed:
  version: 2
  scheduler:
    allowed-failures: 5
    idle-timeout: null
    worker-saturation: .inf
    worker-ttl: "5 minutes"
    work-stealing: False
    preload: [a.py]
    blocked-handlers: []
  worker:
    lifetime: {duration: 55m, stagger: 0 seconds, restart: True}
    resources: {gpus: 2, "odd.name": 0.5}
    memory: {target: false, spill: 0.65, pause: 0.9, terminate: 0.95, max-spill: 50 GB}
    profile: {interval: 10ms}
  nanny:
    environ: {OMP_NUM_THREADS: 1}
  comm:
    timeouts: {connect: 30s, tcp: 30s}
  somewhere: {new: 1}
dataframe:
  shuffle: {method: tasks}
"#,
    );
    let config = loaded(&import);
    assert_eq!(config.scheduler.allowed_failures, 6);
    assert!(config.scheduler.saturation.is_infinite() && !config.scheduler.work_stealing);
    assert_eq!(config.scheduler.idle_timeout, None);
    assert_eq!(config.scheduler.worker_loss_timeout.0.as_secs(), 300);
    assert_eq!(config.worker.lifetime.map(|t| t.0.as_secs()), Some(3300));
    assert!(config.worker.lifetime_restart);
    assert_eq!(config.worker.memory.target, None);
    assert_eq!(config.worker.memory.max_spill.map(|size| size.0), Some(50_000_000_000));
    assert_eq!(config.worker.resources.len(), 2);
    assert_eq!(config.network.connect_timeout.0.as_secs(), 30);
    assert!(config.worker.local_directory.is_some());
    let absent = import.absent().join("\n");
    for wanted in [
        "distributed.scheduler.preload: ",
        "distributed.worker.profile: ",
        "distributed.nanny.environ: ",
        "distributed.comm.timeouts.tcp",
        "distributed.somewhere.new",
        "dataframe: Dask itself reads it",
    ] {
        assert!(absent.contains(wanted), "{wanted} not in\n{absent}");
    }
    assert_eq!(import.absent().len(), 6, "{absent}");
}

#[test]
fn jobqueue_yaml() {
    let import = import(
        r#"
jobqueue:
  slurm:
    name: dask-worker
    cores: 36
    memory: 109 GB
    processes: 9
    interface: ib0
    death-timeout: 60
    local-directory: $TMPDIR
    queue: regular
    account: null
    walltime: 01:00:00
    job-extra-directives: ["--exclusive"]
    job-script-prologue: ["module load conda"]
    scheduler-options: {}
  pbs:
    resource-spec: select=1:ncpus=36:mem=109gb:ngpus=2:arch=x
    queue: economy
    project: P1
    walltime: '00:30:00'
  casper-dask:
    cores: 2
    job-cpu: 4
    memory: 1073741824
    queue: dav
  cheyenne:
    cores: 2
    queue: q
  lsf: {cores: 1}
"#,
    );
    let launch = loaded(&import).launch;
    let slurm = &launch["slurm"];
    assert_eq!((slurm["cpus"].as_integer(), slurm["memory"].as_str()), (Some(36), Some("109GB")));
    assert_eq!(
        (slurm["partition"].as_str(), slurm["walltime"].as_str()),
        (Some("regular"), Some("01:00:00"))
    );
    assert_eq!(slurm["directives"].as_array().map(Vec::len), Some(1));
    assert!(slurm.get("account").is_none());
    let pbs = &launch["pbs"];
    assert_eq!((pbs["cpus"].as_integer(), pbs["memory"].as_str()), (Some(36), Some("109GB")));
    assert_eq!((pbs["gpus"].as_integer(), pbs["account"].as_str()), (Some(2), Some("P1")));
    let casper = &launch["pool"]["casper-dask"];
    assert_eq!((casper["launcher"].as_str(), casper["cpus"].as_integer()), (Some("sbatch"), Some(4)));
    assert_eq!(casper["memory"].as_str(), Some("1073741824B"));
    assert!(launch["pool"]["cheyenne"].get("launcher").is_none());
    let config = loaded(&import);
    assert_eq!(config.worker.interface, ["ib0", "auto"]);
    assert_eq!(config.worker.death_timeout.0.as_secs(), 60);
    let absent = import.absent().join("\n");
    for wanted in [
        "jobqueue.slurm.processes: ",
        "jobqueue.pbs.resource-spec: arch=x",
        "jobqueue.cheyenne: add launcher",
        "jobqueue.cheyenne.queue: ",
        "jobqueue.lsf: hpcdag knows",
    ] {
        assert!(absent.contains(wanted), "{wanted} not in\n{absent}");
    }
}

#[test]
fn later_files_win_and_faults_name_the_file() {
    let mut import = import("distributed: {scheduler: {allowed-failures: 1}}");
    import.add("y.yaml", "distributed: {scheduler: {allowed-failures: 2}}").unwrap();
    import.add("empty.yaml", "# nothing\n").unwrap();
    assert_eq!(loaded(&import).scheduler.allowed_failures, 3);
    for (text, wanted) in [("a: [1", "bad.yaml: not YAML"), ("- a", "bad.yaml: expected a mapping")] {
        let error = import.add("bad.yaml", text).unwrap_err();
        assert!(error.kind == Kind::Config && error.message.contains(wanted), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_listed_and_not_taken() {
    let import = import(
        "distributed:\n  scheduler: {worker-ttl: null, idle-timeout: soon, allowed-failures: many}\n  \
         worker: {memory: {max-spill: \"a\\nlot\"}, resources: [1]}",
    );
    assert!(import.settings.is_empty(), "{:?}", import.settings);
    assert_eq!(import.absent().len(), 5, "{:?}", import.absent());
    // Nothing of the file gets out of the comments.
    assert!(import.render().unwrap().lines().all(|line| line.starts_with('#')));
}

#[test]
fn times_and_sizes_of_dask() {
    let text = |text: &str| Node::Text(text.into());
    for (node, expected) in [
        (text("5 minutes"), Some("5m")),
        (text("1.5h"), Some("90m")),
        (text("500ms"), Some("500ms")),
        (text("2 weeks"), Some("336h")),
        (Node::Int(60), Some("1m")),
        (Node::Float(0.25), Some("250ms")),
        (text("60"), Some("1m")),
        (text("-1s"), None),
        (text("soon"), None),
        (Node::Bool(true), None),
    ] {
        assert_eq!(time(&node).as_deref(), expected, "{node:?}");
    }
    for (node, expected) in [
        (text("4 GiB"), Some("4GiB")),
        (text("50MB"), Some("50MB")),
        (text("1kib"), Some("1kib")),
        (Node::Int(100), Some("100B")),
        (text("100"), Some("100B")),
        (text("a lot"), None),
    ] {
        assert_eq!(size(&node).as_deref(), expected, "{node:?}");
    }
}
