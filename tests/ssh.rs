//! Workers by ssh, against a real `sshd` that each test starts for itself, for this user alone: a port of
//! its own, keys of its own, no privileges needed. The hosts are names of this machine.

mod support;

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::scenario::{LIMIT, PREAMBLE, after, json, put_in_path};
use support::{Process, Sandbox, wait_until};

/// Where Debian puts it, which is not in everybody's `PATH`.
const SSHD: &str = "/usr/sbin/sshd";

/// A key pair in a file.
fn key(sandbox: &Sandbox, name: &str) -> PathBuf {
    let mut command = sandbox.command("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(sandbox.path(name));
    sandbox.run("keygen", command, LIMIT);
    sandbox.path(name)
}

/// A server on a port of its own, which knows one key; and a configuration file for `ssh` in which hosts a,
/// b and c are this machine, `nobody` has no address, `closed` does not listen, and `stranger` has a wrong
/// key.
fn serve(sandbox: &Sandbox) -> Process {
    let (host, own, other) = (key(sandbox, "host_key"), key(sandbox, "own_key"), key(sandbox, "other_key"));
    let public = |path: &Path| std::fs::read_to_string(path.with_extension("pub")).expect("a public key");
    sandbox.write("authorized_keys", public(&own));
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let (port, closed) = (free(), free());
    let at = |name: &str| sandbox.path(name).display().to_string();
    let config = sandbox.write(
        "sshd_config",
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile {}\nAuthorizedKeysFile {}\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PubkeyAuthentication yes\nPermitRootLogin prohibit-password\nMaxStartups 50\nLogLevel VERBOSE\n",
            host.display(),
            at("sshd.pid"),
            at("authorized_keys"),
        ),
    );
    sandbox.write("known_hosts", format!("us {}", public(&host)));
    let host = |name: &str, port: u16, key: &Path| {
        format!(
            "Host {name}\n HostName 127.0.0.1\n HostKeyAlias us\n Port {port}\n IdentityFile {}\n",
            key.display()
        )
    };
    let mut client = ["a", "b", "c"].map(|name| host(name, port, &own)).concat();
    client += &host("closed", closed, &own);
    client += &host("stranger", port, &other);
    client += "Host nobody\n HostName nobody.invalid\n";
    client += &format!(
        "Host *\n IdentitiesOnly yes\n IdentityAgent none\n GlobalKnownHostsFile /dev/null\n \
         UserKnownHostsFile {}\n",
        at("known_hosts")
    );
    let client = sandbox.write("ssh_config", client);
    sandbox.write(
        "config/hpcdag/config.toml",
        format!(
            "[launch.ssh]\noptions = ['-F', '{}']\nprologue = 'export MODULES=loaded'\n\
             [scheduler]\nhost = '127.0.0.1'\n",
            client.display()
        ),
    );
    if nix::unistd::geteuid().is_root() {
        // As root it separates privileges, for which Debian's start scripts make this directory.
        std::fs::create_dir_all("/run/sshd").expect("a directory");
        std::fs::set_permissions("/run/sshd", std::fs::Permissions::from_mode(0o755)).expect("ours");
    }
    let mut command = sandbox.command(SSHD);
    command.arg("-D").arg("-e").arg("-f").arg(config);
    let process = sandbox.start("sshd", command);
    wait_until("sshd listens", Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).is_ok());
    process
}

fn scenario(sandbox: &Sandbox, script: &str) -> String {
    let mut command = sandbox.command("bash");
    command.arg("-c").arg(format!("{PREAMBLE}{script}"));
    put_in_path(&mut command, &[]);
    // Settings in variables go to the hosts, too.
    command.env("HPCDAG_WORKER__HOST", "127.0.0.1");
    sandbox.run("scenario", command, LIMIT)
}

/// Workers on three hosts, named by a list and by a file; tasks run there with what the settings say; they
/// are stopped by message, come again, and leave nothing.
#[test]
fn workers_on_named_hosts() {
    let sandbox = Sandbox::new();
    let sshd = serve(&sandbox);
    sandbox.write("hosts", "# ours\na slots=1\nb:2\nc\n");
    let output = scenario(
        &sandbox,
        r#"
export HPCDAG_SCHEDULER_FILE=$PWD/s.json
hpcdag scheduler --scheduler-file s.json --detach > /dev/null
say started $(hpcdag workers start --launcher ssh --hosts a,b,c --nthreads 1 2>&1)
say ran $(hpcdag submit --array 1-30 -- sh -c 'echo $MODULES ${SSH_CONNECTION%% *}; sleep 0.1' | sort -u)
say workers $(hpcdag workers list --json)
hpcdag workers stop --all > /dev/null
until_ok workers_are 0
until_ok sh -c '! pgrep -f "^ssh -F '$PWD'"'
say again $(hpcdag workers start --hostfile hosts 2>&1)
say slots $(hpcdag workers list --json)
hpcdag down > /dev/null
until_ok sh -c '! pgrep -f "[w]orker --scheduler-file '$PWD'"'
unset HPCDAG_SCHEDULER_FILE
say up $(hpcdag up --hosts a,b -n 4 --nthreads 1 --json 2> /dev/null | key workers)
hpcdag down > /dev/null
say left $(find "$XDG_STATE_HOME" -type f | wc -l)
say processes $(pgrep -c -f "[w]orker --scheduler-file $PWD" || true)
"#,
    );
    assert!(after(&output, "started").ends_with("3 workers connected on 3 hosts"), "{output}");
    assert_eq!(after(&output, "ran"), "loaded 127.0.0.1", "by ssh, with the prologue: {output}");
    let workers = json(&output, "workers");
    let begins = |name: &str| {
        let all = workers.as_array().into_iter().flatten().filter_map(|w| w["name"].as_str());
        all.filter(|n| n.starts_with(name)).count()
    };
    assert_eq!([begins("a-"), begins("b-"), begins("c-")], [1, 1, 1], "{workers}");
    assert!(workers.to_string().contains("tls://127.0.0.1:"), "{workers}");
    assert!(after(&output, "again").ends_with("3 workers connected on 3 hosts"), "{output}");
    let slots = json(&output, "slots");
    let b = slots
        .as_array()
        .into_iter()
        .flatten()
        .find(|w| w["name"].as_str().is_some_and(|n| n.starts_with("b-")));
    assert_eq!(b.map(|w| &w["threads"]), Some(&2.0.into()), "{slots}");
    assert_eq!((after(&output, "up"), after(&output, "left")), ("4", "0"), "{output}");
    assert_eq!(after(&output, "processes"), "0");
    drop(sshd);
}

/// Hosts that do not come are named, each with what ssh says; with `--min-workers` the others go on.
#[test]
fn hosts_that_do_not_come() {
    let sandbox = Sandbox::new();
    let sshd = serve(&sandbox);
    let output = scenario(
        &sandbox,
        r#"
export HPCDAG_SCHEDULER_FILE=$PWD/s.json
hpcdag scheduler --scheduler-file s.json --detach > /dev/null
code=0
hpcdag workers start --launcher ssh --hosts a,nobody,closed,stranger --nthreads 1 2> all.err || code=$?
say code $code
until_ok workers_are 1
hpcdag workers stop --all > /dev/null
until_ok workers_are 0
hpcdag workers start --hosts a,closed --min-workers 1 --nthreads 1 > some 2> some.err || say some-code $?
say some $(cat some)
hpcdag workers start --launcher ssh 2> none.err || say none-code $?
hpcdag workers start --hosts a,b -n 4 2> many.err || say many-code $?
hpcdag workers start --hosts a,-oProxyCommand=x 2> option.err || say option-code $?
hpcdag workers start --launcher local --hosts a 2> local.err || say local-code $?
hpcdag stop > /dev/null
until_ok sh -c '! pgrep -f "[w]orker --scheduler-file '$PWD'"'
"#,
    );
    let said = sandbox.read("all.err");
    assert_eq!(after(&output, "code"), "11", "{said}");
    for (host, word) in [
        ("nobody", "Could not resolve hostname nobody.invalid"),
        ("closed", "Connection refused"),
        ("stranger", "Permission denied (publickey)"),
    ] {
        let about = said.split(&format!("  {host}: ")).nth(1).unwrap_or_default();
        let about = about.split("\n  ").take(3).collect::<String>();
        assert!(about.contains(word), "{host}: {said}");
    }
    assert!(!said.contains("  a: "), "{said}");
    assert!(after(&output, "some").starts_with("1 worker connected"), "{output}");
    assert!(sandbox.read("some.err").contains("closed: ssh ended"), "{}", sandbox.read("some.err"));
    assert!(sandbox.read("none.err").contains("--hosts a,b,c"), "{}", sandbox.read("none.err"));
    assert!(sandbox.read("many.err").contains("--nthreads"), "{}", sandbox.read("many.err"));
    for name in ["none", "many", "option", "local"] {
        assert_eq!(after(&output, &format!("{name}-code")), "2", "{name}");
    }
    drop(sshd);
}
