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

/// Runs a script in an allocation of two nodes with networks of their own; what it printed, and the sandbox.
/// `None` where there are no namespaces.
fn on_networks(script: &str) -> Option<(Sandbox, String)> {
    if !has_namespaces() {
        eprintln!("no namespaces can be made here: nothing to see");
        return None;
    }
    let sandbox = Sandbox::new();
    for name in ["tmp", "home"] {
        std::fs::create_dir(sandbox.path(name)).expect("a directory");
    }
    let mut command = sandbox.command("bash");
    environment(&sandbox, &mut command);
    command.arg(repository().join("scripts/slurm-testbed")).args(["run", "--netns", "--nodes", "2", "--dir"]);
    command.arg(sandbox.path("slurm")).args(["--", "salloc", "-N2", "bash", "-c", script]);
    let out = sandbox.run("networks", command, SCRIPT);
    assert!(!sandbox.path("slurm").exists());
    Some((sandbox, out))
}

#[test]
fn a_cluster_uses_the_network_it_is_told() {
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
    let Some((sandbox, out)) = on_networks(script) else { return };
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
}

/// A node whose network is down is named, with what is wrong there; with a second choice of networks it takes
/// part all the same, as long as the scheduler can be reached from it.
#[test]
fn a_node_without_the_network_is_named() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can take a network down");
        return;
    }
    let script = r#"
set -euo pipefail
on_n2() { srun --overlap -N1 -n1 -w n2 "$@"; }
on_n2 ip link set ib0 down
code=0
hpcdag up --interface ib0 --timeout 40s 2> down.err || code=$?
printf 'down %s\n' $code
# The scheduler is on ib0 of the first node, which n2 cannot reach by its other network.
code=0
hpcdag up --interface ib0,eth0 --timeout 10s 2> unreachable.err || code=$?
printf 'unreachable %s\n' $code
HPCDAG_SCHEDULER__INTERFACE=eth0 hpcdag scheduler --detach > /dev/null
printf 'started %s\n' "$(hpcdag workers start --interface ib0,eth0 2>&1 | tail -n 1)"
printf 'workers %s\n' "$(hpcdag workers list --json | tr -d '\n')"
printf 'ran %s\n' "$(hpcdag submit --array 1-20 -- sh -c 'hostname; sleep 0.1' | sort -u | tr '\n' ' ')"
hpcdag down
"#;
    let Some((sandbox, out)) = on_networks(script) else { return };
    let (down, unreachable) = (sandbox.read("down.err"), sandbox.read("unreachable.err"));
    assert!(out.contains("down 11\n") && out.contains("unreachable 8\n"), "{out}");
    assert!(down.contains("n2: Exited") && down.contains("interface ib0 is down"), "{down}");
    assert!(down.contains("eth0 (10.77.0.12"), "what there is instead: {down}");
    let said = "nobody answers at tls://10.78.0.11:";
    assert!(unreachable.contains("n2: not connected") && unreachable.contains(said), "{unreachable}");
    assert!(unreachable.contains("unreachable"), "{unreachable}");
    assert!(out.contains("started 2 workers connected"), "{out}");
    let workers = json_after(&out, "workers").to_string();
    assert!(workers.contains("tls://10.78.0.11:") && workers.contains("tls://10.77.0.12:"), "{workers}");
    assert!(out.contains("ran n1 n2"), "{out}");
}
