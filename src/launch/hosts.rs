//! Hosts on which workers are started one by one: those of a PBS job, those of Grid Engine's parallel
//! environments, and those that the user names. Owns finding out which they are and the command that starts
//! something there; processes, and waiting for them, are the caller's.

use super::dialect::{CommandLine, System};
use super::own_job::{self, OwnJob, is_in_path, pbs_program};
use super::settings::SshSettings;
use super::slurm::hostlist;
use super::template::shell_quoted;
use crate::base::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A way of looking variables up.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Options of every `ssh`: never a question to somebody who is not there, and no connection that hangs. The
/// first value that `ssh` sees for an option counts, so the user's own stand before these.
const SSH_OPTIONS: [&str; 4] =
    ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=30", "ServerAliveCountMax=6"];

/// Variables that say which job a process is part of. `ssh` does not carry them along.
const OF_THE_JOB: &[&str] =
    &["PBS_JOBID", "PBS_NODEFILE", "PBS_ENVIRONMENT", "JOB_ID", "SGE_TASK_ID", "SGE_ROOT", "SGE_CELL"];

/// Beginnings of variables that are of one process, one host or one job.
const NOT_FOR_OTHERS: &[&str] =
    &["PBS_", "SGE_", "QRSH_", "SSH_", "SLURM", "XDG_RUNTIME", "XDG_SESSION", "HPCDAG_INTERNAL_", "BASH_"];

/// Names of such variables.
const NAMES_NOT_FOR_OTHERS: &[&str] = &[
    "ARC",
    "DISPLAY",
    "ENVIRONMENT",
    "HOST",
    "HOSTNAME",
    "JOB_ID",
    "JOB_NAME",
    "JOB_SCRIPT",
    "NCPUS",
    "NHOSTS",
    "NQUEUES",
    "NSLOTS",
    "OLDPWD",
    "PE",
    "PE_HOSTFILE",
    "PWD",
    "QUEUE",
    "REQNAME",
    "REQUEST",
    "RESTARTED",
    "SHLVL",
    "TEMP",
    "TERM",
    "TMP",
    "TMPDIR",
    "WINDOWID",
    "_",
];

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its name, as it was given.
    pub name: String,
    /// Processors there that are ours; `None` if nobody says.
    pub cpus: Option<u32>,
    /// Memory there that is ours, in bytes; `None` if nobody says.
    pub memory: Option<u64>,
    /// Its first line in the node file, from 0: the number by which `pbsdsh` knows it.
    pub line: usize,
}

impl Host {
    /// Whether a host that calls itself `name` is this one: full and short names are the same host's.
    pub fn is(&self, name: &str) -> bool {
        let own = self.name.rsplit('@').next().unwrap_or_default();
        own == name || short(own) == short(name)
    }
}

/// The name without its domain.
fn short(name: &str) -> &str {
    match name.parse::<std::net::IpAddr>() {
        Ok(_) => name,
        Err(_) => name.split('.').next().unwrap_or_default(),
    }
}

/// What starts a process on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// PBS's `pbsdsh`, which is this program.
    Pbsdsh(String),
    /// Grid Engine's `qrsh -inherit`.
    Qrsh,
    /// `ssh`.
    Ssh(SshSettings),
}

impl Means {
    /// The program's name, for messages.
    pub fn name(&self) -> &str {
        match self {
            Means::Pbsdsh(_) => "pbsdsh",
            Means::Qrsh => "qrsh",
            Means::Ssh(settings) => &settings.command,
        }
    }

    /// The command that runs a script of the shell on a host. `here` is this host's name.
    pub fn command(&self, host: &Host, here: &str, script: &str) -> CommandLine {
        // Whatever shell the user has there.
        let line = format!("exec /bin/sh -c {}", shell_quoted(script));
        match self {
            // PBS ends what it has started itself, so that it starts this too.
            Means::Pbsdsh(program) => {
                let at = host.line.to_string();
                CommandLine::new(program, &["-n", &at, "--", "/bin/sh", "-c", script])
            }
            // What is here is in the job already, which has a process less to start by `qrsh` here.
            Means::Qrsh if host.is(here) => CommandLine::new("/bin/sh", &["-c", script]),
            Means::Qrsh => CommandLine::new("qrsh", &["-inherit", "-nostdin", &host.name, &line]),
            Means::Ssh(settings) => {
                let mut command = CommandLine::new(&settings.command, &[]);
                command.args.extend(settings.options.iter().cloned());
                command.args.extend(["-n", "-T"].map(str::to_owned));
                command.args.extend(SSH_OPTIONS.iter().flat_map(|o| ["-o".to_owned(), (*o).to_owned()]));
                command.args.extend(["--".to_owned(), host.name.clone(), line]);
                command
            }
        }
    }
}

/// Hosts, and how to start something on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// The job that they belong to.
    pub job: Option<(System, String)>,
    /// The hosts, each once.
    pub hosts: Vec<Host>,
    /// How.
    pub means: Means,
    /// How long the job may still run, if the batch system was asked and said so.
    pub left: Option<Duration>,
}

impl Hosts {
    /// Hosts that the user names.
    ///
    /// # Errors
    /// `Usage` when there is none, or one could be taken for an option.
    pub fn named(names: Vec<Host>, ssh: SshSettings) -> Result<Hosts> {
        let hosts = once(names);
        if hosts.is_empty() {
            return Err(Error::new(Kind::Usage, "no host is named").hint("for example: --hosts a,b,c"));
        }
        let is_name = |name: &str| {
            !name.starts_with('-') && !name.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        if let Some(host) = hosts.iter().find(|host| !is_name(&host.name)) {
            return Err(Error::new(Kind::Usage, format!("{:?} is not the name of a host", host.name)));
        }
        Ok(Hosts { job: None, hosts, means: Means::Ssh(ssh), left: None })
    }

    /// The hosts of the job of PBS or Grid Engine that this process is in; `None` outside of such. With `ssh`
    /// always by that, else by the batch system's own means as far as they are there.
    ///
    /// # Errors
    /// `Launch` when a file that the environment names cannot be read or makes no sense.
    pub fn of_job(variables: Variables, ssh: SshSettings, always_ssh: bool) -> Result<Option<Hosts>> {
        let value = |name: &str| variables(name).filter(|text| !text.trim().is_empty());
        let Some((system, id)) = own_job::id(variables) else { return Ok(None) };
        let (mut hosts, file) = match (system, value("PBS_NODEFILE"), value("PE_HOSTFILE")) {
            (System::Pbs, Some(file), _) => (hosts_of_node_file(&read("PBS_NODEFILE", &file)?), file),
            (System::Pbs, None, _) | (System::Slurm, ..) => return Ok(None),
            (System::GridEngine, _, Some(file)) => {
                (hosts_of_grid_engine(&read("PE_HOSTFILE", &file)?)?, file)
            }
            // Without a parallel environment there is one slot, here.
            (System::GridEngine, _, None) => {
                let name = value("HOSTNAME").or_else(|| hostname::get().ok()?.into_string().ok());
                let host = Host { name: name.unwrap_or_default(), cpus: Some(1), ..Host::default() };
                (vec![host], "the environment".into())
            }
        };
        if hosts.is_empty() {
            return Err(Error::new(Kind::Launch, format!("{file} names no host")));
        }
        let job = own_job::ask(system, &id, variables).unwrap_or_else(|error| {
            tracing::warn!("it is not known what the job has, nor when it ends: {}", error.message);
            OwnJob::default()
        });
        for host in &mut hosts {
            let share = job.shares.iter().find(|(name, _)| host.is(name)).map(|(_, share)| *share);
            host.memory = share.map(|(_, memory)| memory).filter(|memory| *memory > 0);
            host.cpus = host.cpus.or(share.map(|(cpus, _)| cpus));
            if system == System::Pbs && host.cpus.is_none() {
                host.cpus = value("NCPUS").and_then(|n| n.parse().ok());
            }
        }
        let own_means = match system {
            _ if always_ssh => None,
            System::Pbs => pbs_program("pbsdsh", variables).map(Means::Pbsdsh),
            _ => is_in_path("qrsh", variables).then_some(Means::Qrsh),
        };
        let means = own_means.unwrap_or(Means::Ssh(ssh));
        Ok(Some(Hosts { job: Some((system, id)), hosts, means, left: job.left }))
    }
}

fn read(variable: &str, file: &str) -> Result<String> {
    std::fs::read_to_string(file).map_err(|e| {
        let error = Error::file(&format!("cannot read the {variable}"), Path::new(file), &e);
        Error::new(Kind::Launch, error.message)
            .hint("it is on the job's first node only: start workers from the job's own shell")
    })
}

/// Each host once, where it comes first; its processors are the sum if all say so.
fn once(all: impl IntoIterator<Item = Host>) -> Vec<Host> {
    let mut hosts: Vec<Host> = Vec::new();
    let mut at: BTreeMap<String, usize> = BTreeMap::new();
    for host in all {
        match at.get(&host.name) {
            Some(found) => {
                let first = &mut hosts[*found];
                first.cpus = first.cpus.zip(host.cpus).map(|(a, b)| a.saturating_add(b));
            }
            None => {
                at.insert(host.name.clone(), hosts.len());
                hosts.push(host);
            }
        }
    }
    hosts
}

/// The hosts of `$PBS_NODEFILE`: a line for each process that the job asked for there.
pub fn hosts_of_node_file(text: &str) -> Vec<Host> {
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, name)| !name.is_empty());
    once(lines.map(|(line, name)| Host { name: name.into(), line, ..Host::default() }))
}

/// The hosts of `$PE_HOSTFILE`: `host slots queue processors` on each line, one for each queue there.
///
/// # Errors
/// `Launch` when a line is not so.
pub fn hosts_of_grid_engine(text: &str) -> Result<Vec<Host>> {
    let mut hosts = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(name), Some(Ok(slots))) = (words.next(), words.next().map(str::parse)) else {
            let what = format!("{line:?} in $PE_HOSTFILE is not a host with its slots");
            return Err(Error::new(Kind::Launch, what));
        };
        hosts.push(Host { name: name.into(), cpus: Some(slots), ..Host::default() });
    }
    Ok(once(hosts))
}

/// The hosts of a list such as `a,b,n[1-4]`.
///
/// # Errors
/// `Usage` when it is none.
pub fn hosts_of_list(text: &str) -> Result<Vec<Host>> {
    let names = hostlist::parse(text).map_err(|e| Error::new(Kind::Usage, e.message))?;
    Ok(names.into_iter().map(|name| Host { name, ..Host::default() }).collect())
}

/// The hosts of a file with one on each line, as MPI's: `host`, `host slots=4` or `host:4`; `#` begins a
/// comment.
///
/// # Errors
/// `Usage` when a number of slots is none.
pub fn hosts_of_host_file(text: &str) -> Result<Vec<Host>> {
    let mut hosts = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(first) = words.next() else { continue };
        let (name, mut slots) = match first.rsplit_once(':') {
            // More than one colon is an address of version 6.
            Some((name, slots)) if !name.contains(':') => (name, Some(slots)),
            _ => (first, None),
        };
        slots = words.find_map(|word| word.strip_prefix("slots=")).or(slots);
        let cpus = slots.map(str::parse).transpose();
        let cpus = cpus.ok().filter(|n| *n != Some(0)).ok_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("{line:?} in the host file has no number of slots that makes sense"),
            )
        })?;
        hosts.push(Host { name: name.into(), cpus, ..Host::default() });
    }
    Ok(hosts)
}

/// Whether a variable goes to workers on other hosts: of a job, all that are not of one process, host or job;
/// outside of jobs only our own settings, for hosts may differ.
pub fn is_handed_over(name: &str, hosts: &Hosts) -> bool {
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    let is_private = NOT_FOR_OTHERS.iter().any(|begin| name.starts_with(begin));
    match (&hosts.job, &hosts.means) {
        _ if !is_name || name.is_empty() => false,
        (None, _) => name.starts_with("HPCDAG_") && !is_private,
        (Some(_), Means::Ssh(_)) if OF_THE_JOB.contains(&name) => true,
        (Some(_), _) => !is_private && !NAMES_NOT_FOR_OTHERS.contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, cpus: Option<u32>, line: usize) -> Host {
        Host { name: name.into(), cpus, memory: None, line }
    }

    #[test]
    fn files_of_batch_systems() {
        assert_eq!(
            hosts_of_node_file("n1\nn1\nn2.x.org\n\n"),
            [host("n1", None, 0), host("n2.x.org", None, 2)]
        );
        let found = hosts_of_grid_engine("n1 2 all.q@n1 UNDEFINED\nn2 4 all.q@n2 <NULL>\nn1 1 b.q@n1 0,0\n");
        assert_eq!(found.unwrap(), [host("n1", Some(3), 0), host("n2", Some(4), 0)]);
        assert!(hosts_of_grid_engine("n1 many\n").unwrap_err().message.contains("n1 many"));
    }

    #[test]
    fn named_hosts() {
        let found = hosts_of_host_file("# ours\na slots=4\nme@b:2 # old\n\nc\nfe80::1\n").unwrap();
        let expected = [host("a", Some(4), 0), host("me@b", Some(2), 0), host("c", None, 0)];
        assert_eq!((&found[..3], found[3].name.as_str()), (&expected[..], "fe80::1"));
        assert!(hosts_of_host_file("a slots=0").is_err() && hosts_of_host_file("a:x").is_err());
        let list = hosts_of_list("a,n[1-2]").unwrap();
        assert_eq!(list.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["a", "n1", "n2"]);
        assert!(Hosts::named(hosts_of_list("a,-oProxyCommand=x").unwrap(), SshSettings::default()).is_err());
        assert!(Hosts::named(Vec::new(), SshSettings::default()).is_err());
        assert!(host("me@n1.x.org", None, 0).is("n1") && host("n1", None, 0).is("n1.y"));
        assert!(!host("10.0.0.1", None, 0).is("10.0.0.2") && !host("n1", None, 0).is("n11"));
    }

    #[test]
    fn commands() {
        let ssh = SshSettings { options: vec!["-p".into(), "2222".into()], ..SshSettings::default() };
        let here = host("n1", Some(2), 3);
        let text = |means: Means, on: &Host| means.command(on, "n1.x", "echo 'a'").to_string();
        assert_eq!(
            text(Means::Pbsdsh("pbsdsh".into()), &here),
            "pbsdsh -n 3 -- /bin/sh -c 'echo '\\''a'\\'''"
        );
        assert!(text(Means::Qrsh, &here).starts_with("/bin/sh -c"));
        let other = host("n2", None, 0);
        assert!(text(Means::Qrsh, &other).starts_with("qrsh -inherit -nostdin n2 'exec /bin/sh -c"));
        let line = text(Means::Ssh(ssh), &other);
        assert!(
            line.starts_with("ssh -p 2222 -n -T -o BatchMode=yes") && line.contains(" -- n2 'exec"),
            "{line}"
        );
    }

    #[test]
    fn jobs_are_found_by_their_variables() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hosts");
        std::fs::write(&file, "n1 2 all.q@n1 UNDEFINED\n").unwrap();
        let path = file.to_string_lossy().into_owned();
        let of = |set: &[(&str, &str)], ssh| {
            Hosts::of_job(
                &|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()),
                SshSettings::default(),
                ssh,
            )
        };
        let job = [("JOB_ID", "7"), ("SGE_ROOT", "/s"), ("PE_HOSTFILE", path.as_str())];
        let found = of(&job, false).unwrap().unwrap();
        assert_eq!(found.job, Some((System::GridEngine, "7".into())));
        assert!(matches!(found.means, Means::Ssh(_)), "there is no qrsh in an empty PATH");
        let serial = of(&[("JOB_ID", "7"), ("SGE_ROOT", "/s"), ("HOSTNAME", "n9")], false).unwrap().unwrap();
        assert_eq!(serial.hosts, [host("n9", Some(1), 0)]);
        assert_eq!(of(&[("JOB_ID", "7")], false).unwrap(), None, "another system's variable");
        assert_eq!(of(&[("PBS_JOBID", "7")], false).unwrap(), None);
        let missing = of(&[("PBS_JOBID", "7"), ("PBS_NODEFILE", "/nonexistent/f")], false).unwrap_err();
        assert!(missing.message.contains("/nonexistent/f"), "{missing}");

        let handed = |name: &str, hosts: &Hosts| is_handed_over(name, hosts);
        assert!(handed("PATH", &found) && handed("HPCDAG_WORKER__HOST", &found) && handed("JOB_ID", &found));
        assert!(!handed("PE_HOSTFILE", &found) && !handed("TMPDIR", &found) && !handed("A=%%", &found));
        let by_qrsh = Hosts { means: Means::Qrsh, ..found.clone() };
        assert!(!handed("JOB_ID", &by_qrsh), "Grid Engine sets it");
        let named = Hosts { job: None, ..found };
        assert!(handed("HPCDAG_WORKER__HOST", &named) && !handed("PATH", &named));
    }
}
