//! `[launch.slurm]`, `[launch.pbs]` and `[launch.sge]`: what a site or a user always wants for jobs. Owns the
//! names and types of these settings; the command line's options win over them.

use super::dialect::System;
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
    /// Jobs of a cluster that may be there at a time, waiting or running.
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
        let known: Vec<&str> = System::ALL.iter().map(|s| s.key()).collect();
        if let Some(name) = launch.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(unknown("launch", name, &known, origin));
        }
        let place = format!("launch.{}", system.key());
        let table = match launch.get(system.key()) {
            None => return Ok(Settings::default()),
            Some(Value::Table(table)) => table,
            Some(_) => {
                let what = format!("{}: '{place}': expected a table of settings", origin(&place));
                return Err(Error::new(Kind::Config, what));
            }
        };
        let names = names(system);
        if let Some(name) = table.keys().find(|name| !names.contains(&name.as_str())) {
            return Err(unknown(&place, name, &names, origin));
        }
        let read = Reading { table, place: &place, origin };
        read.all()
    }
}

fn unknown(place: &str, name: &str, known: &[&str], origin: &dyn Fn(&str) -> String) -> Error {
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

struct Reading<'a> {
    table: &'a Table,
    place: &'a str,
    origin: &'a dyn Fn(&str) -> String,
}

impl Reading<'_> {
    fn all(&self) -> Result<Settings> {
        let text = |name| -> Result<_> { Ok(self.get::<Text>(name)?.map(|Text(text)| text)) };
        let lines = |name| -> Result<Vec<String>> {
            Ok(self.get::<Lines>(name)?.map(|Lines(lines)| lines).unwrap_or_default())
        };
        let count = |name| match self.get::<u32>(name)? {
            Some(0) => Err(self.wrong(name, "must be at least 1")),
            count => Ok(count),
        };
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
            warning: match self.table.get("warning") {
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

    fn get<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>> {
        let Some(value) = self.table.get(name) else { return Ok(None) };
        T::deserialize(value.clone()).map(Some).map_err(|e| self.wrong(name, e.message()))
    }

    fn wrong(&self, name: &str, why: &str) -> Error {
        let key = format!("{}.{name}", self.place);
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
