//! The settings' names and types, as one struct for each table of the configuration. Owns the structs, the
//! list of keys derived from them, and how they are filled; the defaults stand in `config/default.toml`.

use super::layers::{Key, Layers, dotted};
use super::path::PathTemplate;
use super::setting::{Backoff, DashboardAddress, Fraction, LogFormat, MemoryLimit, Nthreads, Ports, Setting};
use crate::base::error::{Error, Kind, Result};
use crate::base::units::{Amount, ByteSize, Span};
use std::collections::BTreeMap;

/// A part of the configuration: a table with its keys, or a single value.
pub(super) trait Node: Sized {
    /// Adds all keys at or below `key` to the schema.
    fn describe(key: &[String], schema: &mut Schema);
    /// Reads the part at `key` from the merged layers.
    fn read(reader: &mut Reader, key: &[String]) -> Result<Self>;
}

/// What a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A table whose keys are known.
    Table,
    /// A single value.
    Leaf,
    /// A table of values under names that the user chooses.
    Names,
    /// A table of anything.
    Free,
}

/// All keys there are, in the order of the structs.
pub(super) struct Schema {
    places: Vec<(Key, Place)>,
}

impl Schema {
    /// The schema of `Config`.
    pub(super) fn new() -> Schema {
        let mut schema = Schema { places: Vec::new() };
        Config::describe(&[], &mut schema);
        schema
    }

    fn add(&mut self, key: &[String], place: Place) {
        self.places.push((key.to_vec(), place));
    }

    /// What a key stands for; `None` if there is no such key. Keys inside of tables with chosen names are
    /// leaves.
    pub(super) fn find(&self, key: &[String]) -> Option<Place> {
        if let Some((_, place)) = self.places.iter().find(|(k, _)| k == key) {
            return Some(*place);
        }
        let inside =
            |k: &Key, place: &Place| *place != Place::Table && key.len() > k.len() && key.starts_with(k);
        let (around, place) = self.places.iter().find(|(k, place)| inside(k, place))?;
        match place {
            Place::Free => Some(Place::Free),
            Place::Names if key.len() == around.len() + 1 => Some(Place::Leaf),
            _ => None,
        }
    }

    /// Every key that is or may hold a value, in order, and its place.
    pub(super) fn leaves(&self) -> impl Iterator<Item = (&Key, Place)> {
        self.places.iter().filter(|(_, place)| *place != Place::Table).map(|(key, place)| (key, *place))
    }

    /// The keys as dotted text.
    pub(super) fn keys(&self) -> Vec<String> {
        let text = |(key, place): (&Key, Place)| match place {
            Place::Names | Place::Free => format!("{}.*", dotted(key)),
            _ => dotted(key),
        };
        self.leaves().map(text).collect()
    }

    /// What the writer of an unknown key may have meant: a similar key of the same table, or the same name in
    /// another table.
    pub(super) fn suggest(&self, key: &[String]) -> Option<String> {
        let (name, table) = key.split_last()?;
        let siblings = self.places.iter().filter(|(k, _)| k.len() == key.len() && k.starts_with(table));
        let near = siblings
            .filter_map(|(k, _)| k.last())
            .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
            .filter(|(score, _)| *score > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, candidate)) = near {
            return Some(format!("did you mean '{candidate}'?"));
        }
        let same = self.places.iter().find(|(k, _)| k.len() > 1 && k.last() == Some(name));
        let (table, name) =
            same.and_then(|(k, _)| k.split_last()).map(|(name, table)| (dotted(table), name))?;
        Some(format!("'{name}' belongs in [{table}]"))
    }
}

/// Hands out the merged values and turns a value that does not fit into an error that names its origin.
pub(super) struct Reader<'a> {
    layers: &'a mut Layers,
}

impl<'a> Reader<'a> {
    /// A reader of the merged layers.
    pub(super) fn new(layers: &'a mut Layers) -> Reader<'a> {
        Reader { layers }
    }

    fn value<T: Setting>(&mut self, key: &[String]) -> Result<T> {
        let Some(leaf) = self.layers.leaf_mut(key) else {
            return Err(Error::new(Kind::Internal, format!("config/default.toml lacks '{}'", dotted(key))));
        };
        // A variable or a flag is text of which only the setting's type tells what is meant: `1` may be a
        // number or a name. The first reading that fits is kept.
        let mut first = None;
        for reading in leaf.readings() {
            match T::from_value(&reading) {
                Ok(value) => {
                    leaf.settle(reading);
                    return Ok(value);
                }
                Err(why) => first = first.or(Some(why)),
            }
        }
        let found = leaf.found();
        let why = first.flatten().unwrap_or_else(|| format!("expected {}, found {found}", T::expected()));
        Err(Error::new(Kind::Config, format!("{}: '{}': {why}", leaf.origin, dotted(key))))
    }
}

impl<T: Setting> Node for T {
    fn describe(key: &[String], schema: &mut Schema) {
        schema.add(key, Place::Leaf);
    }

    fn read(reader: &mut Reader, key: &[String]) -> Result<T> {
        reader.value(key)
    }
}

impl Node for BTreeMap<String, Amount> {
    fn describe(key: &[String], schema: &mut Schema) {
        schema.add(key, Place::Names);
    }

    fn read(reader: &mut Reader, key: &[String]) -> Result<Self> {
        let below = reader.layers.below(key);
        below.into_iter().map(|k| Ok((k[key.len()..].join("."), reader.value(&k)?))).collect()
    }
}

impl Node for toml::Table {
    fn describe(key: &[String], schema: &mut Schema) {
        schema.add(key, Place::Free);
    }

    fn read(reader: &mut Reader, key: &[String]) -> Result<Self> {
        let mut table = toml::Table::new();
        for leaf in reader.layers.below(key) {
            let value = reader.value(&leaf)?;
            insert(&mut table, &leaf[key.len()..], value);
        }
        Ok(table)
    }
}

fn insert(table: &mut toml::Table, key: &[String], value: toml::Value) {
    match key {
        [] => {}
        [name] => {
            table.insert(name.clone(), value);
        }
        [name, rest @ ..] => {
            let inner = table.entry(name.clone()).or_insert_with(|| toml::Table::new().into());
            if let toml::Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// Declares the struct of a table: a field `kill_grace` is the key `kill-grace`.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Node for $name {
            fn describe(key: &[String], schema: &mut Schema) {
                if !key.is_empty() {
                    schema.add(key, Place::Table);
                }
                $(<$type as Node>::describe(&join(key, stringify!($field)), schema);)*
            }

            fn read(reader: &mut Reader, key: &[String]) -> Result<Self> {
                Ok($name { $($field: <$type as Node>::read(reader, &join(key, stringify!($field)))?,)* })
            }
        }
    };
}

fn join(key: &[String], field: &str) -> Key {
    key.iter().cloned().chain([field.replace('_', "-")]).collect()
}

table! {
    /// The whole configuration.
    Config {
        /// `[scheduler]`
        scheduler: Scheduler,
        /// `[worker]`
        worker: Worker,
        /// `[client]`
        client: Client,
        /// `[network]`
        network: Network,
        /// `[log]`
        log: Log,
        /// `[launch]`: free-form, each launcher reads the table of its own name.
        launch: toml::Table,
    }
}

table! {
    /// `[scheduler]`
    Scheduler {
        /// Interfaces to listen on, in order of preference.
        interface: Vec<String>,
        /// Name or address to listen on and announce, instead of an interface's.
        host: Option<String>,
        /// Port or range of ports to listen on.
        port: Ports,
        /// How often workers report.
        heartbeat_interval: Span,
        /// Silence after which a worker is lost.
        worker_loss_timeout: Span,
        /// Idleness after which the scheduler ends.
        idle_timeout: Option<Span>,
        /// How many workers may die under a task before it fails.
        allowed_failures: u32,
        /// Delay before a failed task runs again.
        retry_backoff: Backoff,
        /// How long a client may be gone before its runs are cancelled.
        session_lease: Span,
        /// How long a detached run's outputs are kept after its end.
        result_ttl: Span,
        /// Tasks without inputs that a worker holds, as a multiple of its threads; may be infinite.
        saturation: f64,
        /// Whether idle workers take over waiting tasks.
        work_stealing: bool,
        /// Threads of the scheduler's process.
        threads: Nthreads,
        /// Where the dashboard is served.
        dashboard_address: DashboardAddress,
    }
}

table! {
    /// `[worker]`
    Worker {
        /// Interfaces to listen on, in order of preference.
        interface: Vec<String>,
        /// Name or address to listen on and announce, instead of an interface's.
        host: Option<String>,
        /// Port or range of ports to listen on.
        port: Ports,
        /// Task slots.
        nthreads: Nthreads,
        /// Memory for the worker, its results and its tasks.
        memory_limit: MemoryLimit,
        /// Memory left to others on the node, by all workers of a job there together.
        memory_reserve: Option<ByteSize>,
        /// Directory for spilled results and working directories; `$TMPDIR` or `/tmp` if `None`.
        local_directory: Option<PathTemplate>,
        /// How long a worker does without a scheduler.
        death_timeout: Span,
        /// Idleness after which the worker leaves.
        idle_timeout: Option<Span>,
        /// The pool of jobs that the worker belongs to.
        pool: Option<String>,
        /// Whether the worker may be taken away at any time.
        preemptible: bool,
        /// Age at which the worker leaves.
        lifetime: Option<Span>,
        /// By how much the lifetime varies in both directions.
        lifetime_stagger: Span,
        /// Whether the nanny starts a new worker when the lifetime is over.
        lifetime_restart: bool,
        /// How long before the end of its job a worker leaves.
        walltime_margin: Span,
        /// How long leaving may take inside a batch job, once SIGTERM has come.
        signal_grace: Span,
        /// Whether a parent process watches the worker.
        nanny: bool,
        /// Delay before a crashed worker is started again.
        restart_backoff: Backoff,
        /// Interpreter of `shell` lines, to which the line is added.
        shell: Vec<String>,
        /// The words of `{mpirun}` in tasks; `auto` for what is usual there.
        mpirun: Vec<String>,
        /// Time between SIGTERM and SIGKILL for a task.
        kill_grace: Span,
        /// Time for an orderly end.
        retire_timeout: Span,
        /// Whether native functions run in processes of their own.
        native_isolation: bool,
        /// What the worker offers besides threads and memory.
        resources: BTreeMap<String, Amount>,
        /// `[worker.memory]`
        memory: Memory,
        /// `[worker.python]`
        python: Python,
        /// `[worker.logs]`
        logs: Logs,
        /// `[worker.profile]`
        profile: Profile,
    }
}

table! {
    /// `[worker.memory]`: fractions of the memory limit.
    Memory {
        /// Managed memory beyond which results go to disk.
        target: Option<Fraction>,
        /// Process memory beyond which results go to disk.
        spill: Option<Fraction>,
        /// Process memory beyond which no task starts.
        pause: Option<Fraction>,
        /// Process memory beyond which the task that grew is ended.
        terminate: Option<Fraction>,
        /// Results on disk at most.
        max_spill: Option<ByteSize>,
        /// Whether a task's declared memory is a hard limit on it.
        enforce: bool,
        /// Memory that an idle executor process may keep beyond its start; what suits the limit if `None`.
        executor_idle: Option<ByteSize>,
    }
}

table! {
    /// `[worker.python]`: how calls of Python functions are run.
    Python {
        /// The interpreter, if it is not the client's.
        executable: Option<String>,
        /// Modules that are imported once for all executors, besides the usual ones.
        preload: Option<Vec<String>>,
        /// Whether executors are forked from one process that has imported what they need.
        zygote: bool,
        /// Executor processes, which share the worker's threads among them; one for each if `None`.
        processes: Option<u32>,
    }
}

table! {
    /// `[worker.logs]`: what tasks print.
    Logs {
        /// Bytes of each of a task's streams; `None` keeps nothing.
        task: Option<ByteSize>,
        /// Bytes of all tasks together.
        total: ByteSize,
    }
}

table! {
    /// `[worker.profile]`: stacks of Python tasks.
    Profile {
        /// How often they are looked at; `None` for never.
        interval: Option<Span>,
    }
}

table! {
    /// `[client]`
    Client {
        /// How long a client tries to reach the scheduler.
        timeout: Span,
        /// How often progress is shown.
        progress_interval: Span,
        /// Threads of a client's process.
        threads: Nthreads,
    }
}

table! {
    /// `[network]`
    Network {
        /// The scheduler file, if none is named on the command line or in the environment.
        scheduler_file: Option<PathTemplate>,
        /// How long one attempt to connect may take, greeting included.
        connect_timeout: Span,
    }
}

table! {
    /// `[log]`
    Log {
        /// A level, or several directives separated by commas.
        level: String,
        /// How events are written.
        format: LogFormat,
    }
}
