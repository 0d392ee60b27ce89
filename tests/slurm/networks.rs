//! Nodes with addresses of their own, where this machine allows it: which network a cluster uses.

use super::support::{Sandbox, repository};
use super::testbed::{SCRIPT, environment, json_after};
use std::process::{Command, Stdio};

/// Whether namespaces can be made here.
fn has_namespaces() -> bool {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "true"]);
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_cluster_uses_the_network_it_is_told() {
    if !has_namespaces() {
        eprintln!("no namespaces can be made here: nothing to see");
        return;
    }
    let sandbox = Sandbox::new();
    for name in ["tmp", "home"] {
        std::fs::create_dir(sandbox.path(name)).expect("a directory");
    }
    let script = r#"
set -euo pipefail
hpcdag up --interface ib0
printf 'status %s\n' "$(hpcdag status --json | tr -d '\n')"
printf 'hosts %s\n' "$(hpcdag submit --array 1-20 -- sh -c 'hostname; sleep 0.1' | sort -u | tr '\n' ' ')"
hpcdag down
code=0
hpcdag up --interface nosuch0 2> wrong.err || code=$?
printf 'code %s\n' $code
[ -z "$(ls state/hpcdag)" ] && printf 'clean yes\n'
"#;
    let mut command = sandbox.command("bash");
    environment(&sandbox, &mut command);
    command.arg(repository().join("scripts/slurm-testbed")).args(["run", "--netns", "--nodes", "2", "--dir"]);
    command.arg(sandbox.path("slurm")).args(["--", "salloc", "-N2", "bash", "-c", script]);
    let out = sandbox.run("networks", command, SCRIPT);
    let status = json_after(&out, "status");
    let on_ib0 =
        |address: &serde_json::Value| address.as_str().is_some_and(|a| a.starts_with("tls://10.78.0.1"));
    assert!(on_ib0(&status["scheduler"]["address"]), "{status}");
    let workers = status["workers"].as_array().expect("a list");
    assert_eq!((workers.len(), workers.iter().all(|w| on_ib0(&w["address"]))), (2, true), "{status}");
    assert!(out.contains("hosts n1 n2"), "{out}");
    let wrong = sandbox.read("wrong.err");
    assert!(wrong.contains("nosuch0") && wrong.contains("ib0"), "it names those there are: {wrong}");
    assert!(out.contains("clean yes"), "{out}");
    assert!(!sandbox.path("slurm").exists());
}
