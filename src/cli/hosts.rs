//! Workers that are started one by one on hosts: in jobs of PBS and Grid Engine, and where the user names
//! hosts. Owns which hosts are meant, the script that runs there, and the processes here that hold the
//! connections; how a host is reached is `launch::hosts`'s.

use super::args::{LauncherName, PlacementOptions};
use super::background::SCHEDULER_TIMEOUT;
use super::context::Context;
use super::detach::Background;
use super::gather::Source;
use super::processes::{self, HOSTS_PREFIX, Record};
use crate::base::error::{Error, Kind, Result};
use crate::launch::hosts::{Host, Hosts, Means, hosts_of_host_file, hosts_of_list, is_handed_over};
use crate::launch::settings::SshSettings;
use crate::launch::template::not_ended_by_a_signal;
use crate::launch::template::shell_quoted;
use crate::net::private_file;
use crate::net::state_dir::ClusterDir;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What a scheduler beside a worker needs, of the memory that is the job's there.
const SCHEDULER_MEMORY: u64 = 1 << 30;

/// The hosts to start on; `None` when workers go elsewhere.
///
/// # Errors
/// `Usage` for options that do not fit together; what [`Hosts::of_job`] and the configuration give.
pub fn detect(context: &Context, placement: &PlacementOptions) -> Result<Option<Hosts>> {
    let is_ssh = placement.launcher == Some(LauncherName::Ssh);
    let named = named(placement)?;
    if !matches!(placement.launcher, None | Some(LauncherName::Ssh)) {
        return match named {
            None => Ok(None),
            Some(_) => Err(Error::new(Kind::Usage, "--hosts and --hostfile are for --launcher ssh")),
        };
    }
    let variable = |name: &str| std::env::var(name).ok();
    let is_in_slurm = variable("SLURM_JOB_ID").is_some_and(|id| !id.is_empty());
    if named.is_none() && !is_ssh && is_in_slurm {
        return Ok(None);
    }
    let found = match named {
        Some(hosts) => Some(Hosts::named(hosts, settings(context)?)?),
        None => Hosts::of_job(&variable, settings(context)?, is_ssh)?,
    };
    if is_ssh && found.is_none() {
        return Err(Error::new(Kind::Usage, "it is not said on which hosts to start workers by ssh")
            .hint("add --hosts a,b,c or --hostfile FILE"));
    }
    if found.is_some() && placement.per.is_some() {
        return Err(Error::new(Kind::Usage, "--per is for workers on the nodes of a Slurm job")
            .hint("use -n for more than one worker on a host"));
    }
    Ok(found)
}

/// The hosts that the options name.
fn named(placement: &PlacementOptions) -> Result<Option<Vec<Host>>> {
    if let Some(list) = &placement.hosts {
        return hosts_of_list(list).map(Some);
    }
    let Some(file) = &placement.hostfile else { return Ok(None) };
    let text = std::fs::read_to_string(file).map_err(|e| Error::file("cannot read", file, &e))?;
    hosts_of_host_file(&text).map(Some)
}

fn settings(context: &Context) -> Result<SshSettings> {
    SshSettings::read(&context.loaded.config.launch, &super::jobs::origins(context))
}

/// Workers to start on hosts.
pub struct Order<'a> {
    /// Where.
    pub hosts: &'a Hosts,
    /// How many; one on each host if `None`.
    pub count: Option<u32>,
    /// The arguments of `hpcdag worker`.
    pub args: Vec<OsString>,
    /// Whether those say how many threads, and how much memory, a worker has.
    pub is_set: (bool, bool),
    /// The host of the scheduler.
    pub scheduler_host: &'a str,
    /// The cluster's directory.
    pub home: &'a ClusterDir,
}

/// One worker.
struct Place<'a> {
    host: &'a Host,
    name: String,
    /// What it has of the host.
    threads: Option<u32>,
    memory: Option<u64>,
}

impl Order<'_> {
    /// Starts the workers: a process here for each. Those that were started before a fault are returned with
    /// it.
    ///
    /// # Errors
    /// `Usage` when several workers would have to share a host of which nobody says how large it is.
    pub fn start(&self, context: &Context) -> Result<(Vec<Source>, Result<()>)> {
        let places = self.places()?;
        self.home.create()?;
        let environment = self.home.path().join(format!("{HOSTS_PREFIX}{:08x}.env", fastrand::u32(..)));
        private_file::write(&environment, self.environment(context)?.as_bytes())?;
        let mut sources = Vec::new();
        for place in places {
            match self.start_one(context, &place, &environment) {
                Ok(source) => sources.push(source),
                Err(error) => return Ok((sources, Err(error))),
            }
        }
        Ok((sources, Ok(())))
    }

    fn places(&self) -> Result<Vec<Place<'_>>> {
        let hosts = &self.hosts.hosts;
        let all = u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
        let count = self.count.unwrap_or(all);
        let mut places = Vec::new();
        for (at, host) in hosts.iter().enumerate() {
            let here = count / all + u32::from((at as u64) < u64::from(count % all));
            if here > 1 && host.cpus.is_none() && !self.is_set.0 {
                let what = format!("{here} workers on {} would each take all of its processors", host.name);
                return Err(Error::new(Kind::Usage, what).hint("add --nthreads, or start one on each host"));
            }
            let reserve = if host.is(self.scheduler_host) { SCHEDULER_MEMORY } else { 0 };
            let memory = |bytes: u64| bytes.saturating_sub(reserve).max(bytes / 2) / u64::from(here.max(1));
            for _ in 0..here {
                let plain =
                    host.name.replace(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c), "_");
                places.push(Place {
                    host,
                    name: format!("{plain}-{:08x}", fastrand::u32(..)),
                    threads: host.cpus.filter(|_| !self.is_set.0).map(|cpus| (cpus / here).max(1)),
                    memory: host.memory.filter(|_| !self.is_set.1).map(memory),
                });
            }
        }
        Ok(places)
    }

    /// What the shell there reads first. In a file, for variables may be nobody else's business, and command
    /// lines are everybody's.
    fn environment(&self, context: &Context) -> Result<String> {
        let mut lines = Vec::new();
        for (name, value) in std::env::vars_os() {
            // What is no text is nobody's setting. (Grid Engine's own variables are such.)
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
            if is_handed_over(name, self.hosts) {
                lines.push(format!("export {name}={}", shell_quoted(value)));
            }
        }
        for (name, value) in super::background::anchored_variables()? {
            if name != "TMPDIR" {
                lines.push(format!("export {}={}", name.to_string_lossy(), quoted(&value)?));
            }
        }
        if let Some((_, id)) = &self.hosts.job {
            let (name, value) = super::allocation::end_in(id, self.hosts.left);
            lines.push(format!("export {}={}", name.to_string_lossy(), quoted(&value)?));
        }
        if let Means::Ssh(_) = &self.hosts.means {
            lines.extend([settings(context)?.prologue].into_iter().filter(|text| !text.is_empty()));
        }
        Ok(lines.join("\n") + "\n")
    }

    fn start_one(&self, context: &Context, place: &Place, environment: &Path) -> Result<Source> {
        let log = self.home.path().join(format!("{HOSTS_PREFIX}{}.log", place.name));
        let script = self.script(context, place, environment, &log)?;
        let here = hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
        let line = self.hosts.means.command(place.host, &here, &script);
        let what = format!("{} for a worker on {}", self.hosts.means.name(), place.host.name);
        let program = PathBuf::from(&line.program);
        let args = line.args.into_iter().map(OsString::from).collect();
        // It is ready when it has registered, which is waited for with all others.
        let started =
            match Background::of(what, program, args, &log).start(SCHEDULER_TIMEOUT, |_| Ok(Some(()))) {
                Ok(started) => Some(started),
                // Ended already: that is told with those that do not come.
                Err(error) if log.exists() && error.hint.is_some() => None,
                Err(error) => return Err(error),
            };
        let record = started.as_ref().and_then(|started| Record::of(started.pid, &log));
        if let Some(record) = record {
            processes::note(self.home.path(), &[record])?;
        }
        Ok(Source::Host {
            pid: started.map_or(0, |started| started.pid),
            log,
            host: place.host.name.clone(),
            name: place.name.clone(),
            means: self.hosts.means.name().to_owned(),
        })
    }

    /// What the shell on the host runs.
    fn script(&self, context: &Context, place: &Place, environment: &Path, log: &Path) -> Result<String> {
        let mut lines = vec!["cd /".to_owned()];
        let environment = quoted(environment.as_os_str())?;
        // The file is missing where the home directory is another one; what then fails, says so.
        lines.push(format!("if [ -r {environment} ]; then . {environment}; fi"));
        if let Means::Pbsdsh(_) = self.hosts.means {
            // PBS takes what is printed to where the job's output goes.
            let log = quoted(log.as_os_str())?;
            lines.push(format!("if (: >> {log}) 2> /dev/null; then exec >> {log} 2>&1; fi"));
        }
        let has_scheduler = place.host.is(self.scheduler_host);
        if has_scheduler && context.loaded.config.worker.memory_reserve.is_none() {
            lines.push(format!("export HPCDAG_WORKER__MEMORY_RESERVE={SCHEDULER_MEMORY}B"));
        }
        let mut words = vec![quoted(&program(&settings(context)?, &self.hosts.means)?)?, "worker".into()];
        for arg in &self.args {
            words.push(quoted(arg)?);
        }
        words.extend(["--name".into(), shell_quoted(&place.name)]);
        words.extend(place.threads.into_iter().flat_map(|n| ["--nthreads".into(), n.to_string()]));
        words.extend(place.memory.into_iter().flat_map(|n| ["--memory-limit".into(), format!("{n}B")]));
        match self.hosts.means {
            Means::Qrsh => lines.extend(not_ended_by_a_signal(&words.join(" "))),
            _ => lines.push(format!("exec {}", words.join(" "))),
        }
        Ok(lines.join("\n"))
    }
}

/// The program of workers: where this one is, unless `[launch.ssh]` says otherwise.
fn program(settings: &SshSettings, means: &Means) -> Result<OsString> {
    if let (Means::Ssh(_), Some(program)) = (means, &settings.program) {
        return Ok(program.into());
    }
    let path = std::env::current_exe().map_err(|e| Error::os("cannot find this program's file", e))?;
    Ok(path.into())
}

/// One word of the shell.
fn quoted(text: &std::ffi::OsStr) -> Result<String> {
    text.to_str().map(shell_quoted).ok_or_else(|| {
        let what = format!("{} is not UTF-8 and cannot be handed to another host", text.to_string_lossy());
        Error::new(Kind::Usage, what)
    })
}
