//! `[launch.slurm]`, `[launch.pbs]`, `[launch.sge]` and `[launch.ssh]`: what a site or a user always wants
//! for jobs, and for workers on named hosts. Owns the names and types of these settings; the command line's
//! options win over them.

use super::dialect::System;
use super::pools::{self, Pool};
use crate::base::error::{Error, Kind, Result};
use crate::base::units::{ByteSize, Span, parse_walltime};
use serde::de::{self, Deserialize, Deserializer};
use std::time::Duration;
use toml::{Table, Value};

/// The settings of a batch system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whom jobs are charged to.
    pub account: Option<String>,
    /// Partition (Slurm) or queue.
    pub queue: Option<String>,
    /// Quality of service (Slurm).
    pub qos: Option<String>,
    /// Features of nodes (Slurm).
    pub constraint: Option<String>,
    /// Project (PBS, Grid Engine).
    pub project: Option<String>,
    /// How long jobs may run.
    pub walltime: Option<Duration>,
    /// How long before its end a job gets SIGTERM (Slurm). Workers know their end without it.
    pub warning: Option<Duration>,
    /// Processors on each node.
    pub cpus: Option<u32>,
    /// Memory on each node, in bytes.
    pub memory: Option<u64>,
    /// GPUs on each node.
    pub gpus: Option<u32>,
    /// Parallel environment (Grid Engine).
    pub parallel_environment: Option<String>,
    /// What memory is called (Grid Engine).
    pub memory_resource: Option<String>,
    /// What GPUs are called (Grid Engine).
    pub gpu_resource: Option<String>,
    /// Jobs of a cluster that may wait in the queue at a time, for `workers scale` and `workers adapt`.
    pub max_pending: Option<u32>,
    /// Jobs that a cluster may have at a time, waiting ones included.
    pub max_jobs: Option<u32>,
    /// Time between two questions about jobs, at least, where the system's usual one does not suit.
    pub poll_interval: Option<Duration>,
    /// Further options of the head.
    pub directives: Vec<String>,
    /// Options left out of the head.
    pub remove_directives: Vec<String>,
    /// Options for the submitting program's command line.
    pub options: Vec<String>,
    /// Lines before the workers.
    pub prologue: String,
    /// Lines after the workers.
    pub epilogue: String,
    /// A template file to use instead of the built-in one, as written.
    pub template: Option<String>,
    /// The program on the nodes, if it is not at the same place as here.
    pub program: Option<String>,
}

/// The name of the table for `ssh`.
const SSH: &str = "ssh";

/// How runs in jobs are followed, see `relay`.
const FOLLOW: &str = "follow";

/// The settings of every batch system.
const COMMON: &[&str] = &[
    "account",
    "walltime",
    "cpus",
    "memory",
    "gpus",
    "max-pending",
    "max-jobs",
    "poll-interval",
    "directives",
    "remove-directives",
    "options",
    "prologue",
    "epilogue",
    "template",
    "program",
];

fn names(system: System) -> Vec<&'static str> {
    let own: &[&str] = match system {
        System::Slurm => &["partition", "qos", "constraint", "warning"],
        System::Pbs => &["queue", "project"],
        System::GridEngine => {
            &["queue", "project", "parallel-environment", "memory-resource", "gpu-resource"]
        }
    };
    COMMON.iter().chain(own).copied().collect()
}

impl Settings {
    /// Reads the table of a batch system from `[launch]`. `origin` tells where a setting, named with its
    /// dots, comes from.
    ///
    /// # Errors
    /// `Config`, with the origin: a name that there is not, or a value that does not fit.
    pub fn read(launch: &Table, system: System, origin: &dyn Fn(&str) -> String) -> Result<Settings> {
        Settings::of_pool(launch, system, None, origin)
    }

    /// The same for jobs of a pool, whose own settings win.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn of_pool(
        launch: &Table,
        system: System,
        pool: Option<&Pool>,
        origin: &dyn Fn(&str) -> String,
    ) -> Result<Settings> {
        let (place, names, empty) = (format!("launch.{}", system.key()), names(system), Table::new());
        let table = table(launch, system.key(), &place, &names, origin)?.unwrap_or(&empty);
        if let Some(pool) = pool {
            pools::check(pool, &names, origin)?;
        }
        let over = pool.map(|pool| (format!("launch.{}.{}", pools::TABLE, pool.name), &pool.table));
        let over = over.as_ref().map(|(place, table)| (place.as_str(), *table));
        Reading { table, place: &place, over, origin }.all()
    }

    /// The least time between two questions to the batch system whose settings these are.
    pub fn poll_interval_of(&self, system: System) -> Duration {
        self.poll_interval.unwrap_or(system.poll_interval())
    }
}

/// How workers are started on hosts by `ssh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshSettings {
    /// The program.
    pub command: String,
    /// Options of its command line, before ours.
    pub options: Vec<String>,
    /// Lines of the shell there before the worker.
    pub prologue: String,
    /// The program of workers, if it is not at the same place as here.
    pub program: Option<String>,
}

impl Default for SshSettings {
    fn default() -> SshSettings {
        SshSettings { command: "ssh".into(), options: Vec::new(), prologue: String::new(), program: None }
    }
}

impl SshSettings {
    /// Reads `[launch.ssh]`.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn read(launch: &Table, origin: &dyn Fn(&str) -> String) -> Result<SshSettings> {
        let place = format!("launch.{SSH}");
        let names = ["command", "options", "prologue", "program"];
        let Some(table) = table(launch, SSH, &place, &names, origin)? else {
            return Ok(SshSettings::default());
        };
        let read = Reading { table, place: &place, over: None, origin };
        let text = |name| -> Result<_> { Ok(read.get::<Text>(name)?.map(|Text(text)| text)) };
        let lines =
            |name| -> Result<Vec<String>> { Ok(read.get::<Lines>(name)?.map(|l| l.0).unwrap_or_default()) };
        Ok(SshSettings {
            command: text("command")?.unwrap_or(SshSettings::default().command),
            options: lines("options")?,
            prologue: lines("prologue")?.join("\n"),
            program: text("program")?,
        })
    }
}

/// The table of that name in `[launch]`, in which there are only settings of these names.
fn table<'a>(
    launch: &'a Table,
    key: &str,
    place: &str,
    names: &[&str],
    origin: &dyn Fn(&str) -> String,
) -> Result<Option<&'a Table>> {
    let known: Vec<&str> = System::ALL.iter().map(|s| s.key()).chain([SSH, FOLLOW, pools::TABLE]).collect();
    if let Some(name) = launch.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(unknown("launch", name, &known, origin));
    }
    let table = match launch.get(key) {
        None => return Ok(None),
        Some(Value::Table(table)) => table,
        Some(_) => {
            let what = format!("{}: '{place}': expected a table of settings", origin(place));
            return Err(Error::new(Kind::Config, what));
        }
    };
    match table.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(unknown(place, name, names, origin)),
        None => Ok(Some(table)),
    }
}

pub(super) fn unknown(place: &str, name: &str, known: &[&str], origin: &dyn Fn(&str) -> String) -> Error {
    let key = format!("{place}.{name}");
    let error = Error::new(Kind::Config, format!("{}: there is no setting '{key}'", origin(&key)));
    let near = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    error.hint(match near {
        Some((_, candidate)) => format!("did you mean '{candidate}'?"),
        None => format!("[{place}] may have {}", known.join(", ")),
    })
}

/// A table that is read, with another one, of a pool, whose values win.
pub(super) struct Reading<'a> {
    pub(super) table: &'a Table,
    pub(super) place: &'a str,
    pub(super) over: Option<(&'a str, &'a Table)>,
    pub(super) origin: &'a dyn Fn(&str) -> String,
}

impl Reading<'_> {
    fn all(&self) -> Result<Settings> {
        let text = |name| -> Result<_> { Ok(self.get::<Text>(name)?.map(|Text(text)| text)) };
        let lines = |name| -> Result<Vec<String>> {
            Ok(self.get::<Lines>(name)?.map(|Lines(lines)| lines).unwrap_or_default())
        };
        let count = |name| self.count(name);
        Ok(Settings {
            account: text("account")?,
            queue: match text("partition")? {
                None => text("queue")?,
                partition => partition,
            },
            qos: text("qos")?,
            constraint: text("constraint")?,
            project: text("project")?,
            walltime: text("walltime")?
                .map(|text| parse_walltime(&text).map_err(|e| self.wrong("walltime", &e.0)))
                .transpose()?,
            warning: match self.find("warning").map(|(_, value)| value) {
                Some(Value::Boolean(false)) => None,
                _ => self.get::<Span>("warning")?.map(|span| span.0),
            },
            cpus: count("cpus")?,
            memory: self.get::<ByteSize>("memory")?.map(|size| size.0),
            gpus: count("gpus")?,
            max_pending: count("max-pending")?,
            max_jobs: count("max-jobs")?,
            poll_interval: match self.get::<Span>("poll-interval")? {
                Some(Span(Duration::ZERO)) => {
                    return Err(self.wrong("poll-interval", "must be longer than zero"));
                }
                interval => interval.map(|span| span.0),
            },
            parallel_environment: text("parallel-environment")?,
            memory_resource: text("memory-resource")?,
            gpu_resource: text("gpu-resource")?,
            directives: lines("directives")?,
            remove_directives: lines("remove-directives")?,
            options: lines("options")?,
            prologue: lines("prologue")?.join("\n"),
            epilogue: lines("epilogue")?.join("\n"),
            template: text("template")?,
            program: text("program")?,
        })
    }

    /// A number that is not 0.
    pub(super) fn count(&self, name: &str) -> Result<Option<u32>> {
        match self.get::<u32>(name)? {
            Some(0) => Err(self.wrong(name, "must be at least 1")),
            count => Ok(count),
        }
    }

    /// A value, and the place of the table that has it.
    fn find(&self, name: &str) -> Option<(&str, &Value)> {
        let over = self.over.and_then(|(place, table)| Some((place, table.get(name)?)));
        over.or_else(|| Some((self.place, self.table.get(name)?)))
    }

    pub(super) fn get<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>> {
        let Some((_, value)) = self.find(name) else { return Ok(None) };
        T::deserialize(value.clone()).map(Some).map_err(|e| self.wrong(name, e.message()))
    }

    fn wrong(&self, name: &str, why: &str) -> Error {
        let place = self.find(name).map_or(self.place, |(place, _)| place);
        let key = format!("{place}.{name}");
        Error::new(Kind::Config, format!("{}: '{key}': {}", (self.origin)(&key), why.trim_end()))
    }
}

/// A text; a number will do, for accounts are often such.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Text(text)),
            Value::Integer(number) => Ok(Text(number.to_string())),
            _ => Err(de::Error::custom("expected a text")),
        }
    }
}

/// A list of texts, or one text.
struct Lines(Vec<String>);

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Lines, D::Error> {
        let fault = || de::Error::custom("expected a text or a list of texts");
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Lines(vec![text.trim_end().to_owned()])),
            Value::Array(items) => {
                let text = |item: Value| item.as_str().map(str::to_owned).ok_or_else(fault);
                items.into_iter().map(text).collect::<Result<_, _>>().map(Lines)
            }
            _ => Err(fault()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(system: System, text: &str) -> Result<Settings> {
        Settings::read(&text.parse().unwrap(), system, &|key| format!("site.toml ({key})"))
    }

    #[test]
    fn settings_are_read() {
        let settings = read(
            System::Slurm,
            "[slurm]\naccount = 1234\npartition = 'long'\nwalltime = '1-12'\nmemory = '64G'\ncpus = 8\n\
             prologue = ['module load a', 'b']\nepilogue = \"c\\n\"\nwarning = false\n\
             remove-directives = '--mem'",
        )
        .unwrap();
        assert_eq!((settings.account.as_deref(), settings.queue.as_deref()), (Some("1234"), Some("long")));
        assert_eq!(settings.walltime, Some(Duration::from_secs(129_600)));
        assert_eq!((settings.memory, settings.cpus, settings.warning), (Some(64 << 30), Some(8), None));
        assert_eq!((settings.prologue.as_str(), settings.epilogue.as_str()), ("module load a\nb", "c"));
        assert_eq!(settings.remove_directives, ["--mem"]);
        assert_eq!(read(System::Pbs, "[slurm]\ncpus = 1").unwrap().cpus, None);
        assert_eq!(read(System::Slurm, "").unwrap(), Settings::default());
        let asked = read(System::Slurm, "[slurm]\npoll-interval = '2m'\nmax-jobs = 8").unwrap();
        assert_eq!((asked.poll_interval, asked.max_jobs), (Some(Duration::from_secs(120)), Some(8)));
        let warned = read(System::Slurm, "[slurm]\nwarning = '90s'").unwrap();
        assert_eq!(warned.warning, Some(Duration::from_secs(90)));
    }

    #[test]
    fn settings_of_ssh() {
        let read =
            |text: &str| SshSettings::read(&text.parse().unwrap(), &|key| format!("site.toml ({key})"));
        let settings =
            read("[ssh]\noptions = ['-p', '2222']\nprologue = ['a', 'b']\nprogram = '/x'").unwrap();
        assert_eq!((settings.command.as_str(), settings.options.len()), ("ssh", 2));
        assert_eq!((settings.prologue.as_str(), settings.program.as_deref()), ("a\nb", Some("/x")));
        assert_eq!(read("[slurm]\ncpus = 1").unwrap(), SshSettings::default());
        let wrong = read("[ssh]\noption = '-p'").unwrap_err();
        assert!(wrong.hint.is_some_and(|hint| hint.contains("'options'")));
    }

    #[test]
    fn faults_say_where_and_what_instead() {
        for (text, message, hint) in [
            ("[slurm]\npartion = 'x'", "(launch.slurm.partion): there is no setting", "'partition'"),
            ("[slrum]\ncpus = 1", "there is no setting 'launch.slrum'", "'slurm'"),
            ("[slurm]\nparallel-environment = 'x'", "there is no setting", "may have account"),
            ("[slurm]\nwalltime = '30'", "'launch.slurm.walltime': the walltime '30' has no unit", ""),
            ("[slurm]\nmemory = 64", "has no unit", ""),
            ("[slurm]\ncpus = 0", "at least 1", ""),
            ("[slurm]\npoll-interval = '0s'", "longer than zero", ""),
            ("[slurm]\ncpus = 'x'", "'launch.slurm.cpus'", ""),
            ("slurm = 3", "expected a table", ""),
        ] {
            let error = read(System::Slurm, text).unwrap_err();
            assert!(error.kind == Kind::Config && error.message.contains(message), "{text}: {error}");
            assert!(error.hint.unwrap_or_default().contains(hint), "{text}");
        }
    }

    #[test]
    fn site_examples_are_valid() {
        use crate::config::{Config, Sources};
        for (name, system, queue) in [
            ("cray", System::Slurm, Some("standard")),
            ("infiniband", System::Slurm, Some("batch")),
            ("pbs-pro", System::Pbs, Some("workq")),
            ("grid-engine", System::GridEngine, Some("all.q")),
        ] {
            let path = format!("{}/config/site-{name}.toml", env!("CARGO_MANIFEST_DIR"));
            assert!(std::path::Path::new(&path).exists(), "{path}");
            let sources = Sources { site_file: Some(path.clone().into()), ..Sources::none() };
            let loaded = Config::load(&sources, &[]).unwrap_or_else(|e| panic!("{path}: {e}"));
            let settings = Settings::read(&loaded.config.launch, system, &|_| path.clone());
            let settings = settings.unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(settings.queue.as_deref(), queue);
            assert!(settings.walltime.is_some() && !settings.prologue.is_empty(), "{path}");
        }
    }
}
