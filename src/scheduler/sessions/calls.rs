//! From the pieces of a run of calls to what the driver and the core take. Owns the gathering, its limits and
//! the checks of numbers that refer to one another; whether runs that it depends on are known is the
//! driver's to say.

use super::Addresses;
use crate::base::ids::{FamilyIx, RunUuid};
use crate::graph::items::Items;
use crate::graph::layer::{Edge, Layer, Pattern, Size};
use crate::graph::spec::{Action, Stdin, TaskSpec};
use crate::graph::{Family, FamilyNames, Packed};
use crate::protocol::messages::calls::{BROUGHT, CallColumns, CallOptions, Calls, Code, EXTERNAL, WANTED};
use crate::scheduler::core::among::among;
use crate::scheduler::core::event::{CallSpec, RunSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most tasks of one run.
const TASKS_MAX: usize = 1 << 26;

/// What pieces may come to before the last, bytes.
const BYTES_MAX: usize = 4 << 30;

/// Runs of one client that may be on their way at a time.
const RUNS_MAX: usize = 64;

/// Environment and functions have to fit into one message to a worker.
const CODE_BYTES_MAX: usize = 48 << 20;

/// The largest amount of threads or of a resource that a task may ask for, 1/10,000.
const AMOUNT_MAX: u64 = 1 << 40;

/// A run of calls that was checked.
#[derive(Debug)]
pub struct CallSubmission {
    /// What scheduling needs; imports are still to be resolved.
    pub spec: RunSpec,
    /// The tasks of other runs that it depends on.
    pub externals: Vec<(RunUuid, u32)>,
    /// Its names.
    pub graph: Arc<Packed>,
    /// What workers are told.
    pub info: CallInfo,
}

/// What workers are told of a run of calls.
#[derive(Debug, Default)]
pub struct CallInfo {
    /// Its name.
    pub name: String,
    /// What executors have to know first.
    pub environment: Vec<u8>,
    /// The functions that batches refer to.
    pub functions: Vec<Code>,
    /// Options of all tasks, each once.
    pub options: Vec<CallOptions>,
    /// Number of the first task: before it stand those of other runs.
    pub first: u32,
    /// Which of the options, by task from `first`.
    pub option: Vec<u32>,
    /// End of each task's key in `keys`; empty if they are not listed.
    pub keys_end: Vec<u32>,
    /// Keys.
    pub keys: Vec<u8>,
    /// End of each batch, in tasks from `first`.
    pub batch_end: Vec<u32>,
    /// End of each batch's bytes.
    pub bytes_end: Vec<usize>,
    /// Batches.
    pub bytes: Vec<u8>,
}

/// Runs of which not all pieces have come.
#[derive(Debug, Default)]
pub struct Gathering {
    runs: BTreeMap<RunUuid, Pieces>,
}

/// The pieces so far.
#[derive(Debug, Default)]
struct Pieces {
    next: u32,
    map: bool,
    size: usize,
    info: CallInfo,
    externals: Vec<(RunUuid, u32)>,
    flags: Vec<u8>,
    deps_end: Vec<usize>,
    deps: Vec<u32>,
}

impl Gathering {
    /// Takes a piece in; the run, once it is whole.
    ///
    /// # Errors
    /// Why the run is not taken; what there was of it is forgotten.
    pub fn add(&mut self, calls: Calls) -> Result<Option<Whole>, String> {
        let run = calls.run;
        if self.runs.len() >= RUNS_MAX && !self.runs.contains_key(&run) {
            return Err(format!("{RUNS_MAX} runs of this client are on their way"));
        }
        if calls.piece == 0 {
            // It is being sent again.
            self.runs.remove(&run);
        }
        let last = calls.last;
        let pieces = self.runs.entry(run).or_default();
        let added = pieces.add(calls);
        if added.is_err() || last {
            let pieces = self.runs.remove(&run);
            added?;
            return Ok(pieces.map(|pieces| Whole { run, pieces: Box::new(pieces) }));
        }
        Ok(None)
    }
}

/// All pieces of a run.
#[derive(Debug)]
pub struct Whole {
    /// Which.
    pub run: RunUuid,
    pieces: Box<Pieces>,
}

impl Pieces {
    fn add(&mut self, calls: Calls) -> Result<(), String> {
        if calls.piece != self.next {
            return Err(format!("piece {} came instead of {}", calls.piece, self.next));
        }
        if calls.piece == 0 {
            self.map = calls.map;
            self.info.name = printable(&calls.name);
            self.info.environment = calls.environment;
        }
        self.next += 1;
        self.size = self.size.saturating_add(calls.body.len());
        let columns = CallColumns::unpack(&calls.body).map_err(|e| e.to_string())?;
        self.info.functions.extend(calls.functions);
        self.info.options.extend(calls.options);
        self.externals.extend(calls.externals);
        let before = self.info.option.len();
        if self.size > BYTES_MAX || before + columns.option.len() > TASKS_MAX {
            return Err(format!(
                "it is larger than {TASKS_MAX} tasks or {BYTES_MAX} bytes; submit it in parts"
            ));
        }
        self.check(before, &columns)?;
        let end = |from: usize| move |end: u32| from + end as usize;
        let keys = self.info.keys.len();
        if keys + columns.keys.len() > u32::MAX as usize {
            return Err("its keys are too long".into());
        }
        self.info.keys_end.extend(columns.keys_end.iter().map(|e| e + keys as u32));
        self.info.keys.extend(columns.keys);
        self.deps_end.extend(columns.deps_end.into_iter().map(end(self.deps.len())));
        self.deps.extend(columns.deps);
        self.info.batch_end.extend(columns.batch_end.iter().map(|e| e + before as u32));
        self.info.bytes_end.extend(columns.bytes_end.into_iter().map(end(self.info.bytes.len())));
        self.info.bytes.extend(columns.bytes);
        self.info.option.extend(columns.option);
        self.flags.extend(columns.flags);
        Ok(())
    }

    /// Numbers that refer to something have to refer to what is there.
    fn check(&self, before: usize, columns: &CallColumns) -> Result<(), String> {
        if let Some(o) = columns.option.iter().find(|o| **o as usize >= self.info.options.len()) {
            return Err(format!("a task names option {o} of {}", self.info.options.len()));
        }
        let mut from = 0;
        for (at, &end) in columns.deps_end.iter().enumerate() {
            for &dep in &columns.deps[from..end as usize] {
                let (there, what) = match dep & EXTERNAL {
                    0 => (before + at, "an earlier task"),
                    _ => (self.externals.len(), "a task of another run"),
                };
                if (dep & !EXTERNAL) as usize >= there {
                    return Err(format!("task {} depends on {}, which is not {what}", before + at, dep));
                }
            }
            from = end as usize;
        }
        if self.map && (!columns.deps.is_empty() || columns.option.iter().any(|o| *o != 0)) {
            return Err("tasks that are alike have neither dependencies nor different options".into());
        }
        if columns.keys_end.is_empty() != self.map && !columns.option.is_empty() {
            return Err("keys are listed if, and only if, tasks are not alike".into());
        }
        match std::str::from_utf8(&columns.keys) {
            Ok(_) => Ok(()),
            Err(_) => Err("keys are not UTF-8".into()),
        }
    }
}

impl Whole {
    /// Whether making it ready takes next to no time.
    pub fn is_small(&self) -> bool {
        self.pieces.flags.len() <= 64 && self.pieces.size <= 1 << 16
    }

    /// Makes it ready for driver and core.
    ///
    /// # Errors
    /// Why it cannot run.
    pub fn prepare(self, addresses: &Addresses) -> Result<CallSubmission, String> {
        let Whole { run, pieces } = self;
        let Pieces { map, mut info, externals, flags, deps_end, deps, .. } = *pieces;
        let code: usize = info.functions.iter().map(|f| f.bytes.len()).sum();
        if code + info.environment.len() > CODE_BYTES_MAX {
            return Err(format!(
                "its functions have {code} bytes, {CODE_BYTES_MAX} is the most: large data that a function \
                 refers to should be scattered, or be an argument"
            ));
        }
        info.options.iter().try_for_each(possible)?;
        info.options.iter_mut().try_for_each(|options| name_workers(options, addresses))?;
        if map {
            info.option.clear();
        }
        let tasks = flags.len();
        let first = u32::try_from(externals.len()).unwrap_or(u32::MAX);
        if tasks + externals.len() > TASKS_MAX {
            return Err(format!("with what it depends on it has more than {TASKS_MAX} tasks"));
        }
        info.first = first;
        let layers = if map { alike(&info, tasks) } else { single(&info, &deps_end, &deps) };
        let graph = names(&info, &externals, map, tasks).map_err(|e| e.to_string())?;
        let marked = |mark: u8| {
            let has = move |(_, flags): &(u32, &u8)| **flags & mark != 0;
            (first..).zip(&flags).filter(has).map(|(i, _)| i).collect::<Vec<u32>>()
        };
        let calls = CallSpec { imports: Vec::new(), wanted: marked(WANTED), brought: marked(BROUGHT) };
        if map && !calls.brought.is_empty() {
            return Err("what clients bring is not alike".into());
        }
        let spec = RunSpec {
            uuid: run,
            name: info.name.clone(),
            layers,
            names: graph.names().clone(),
            outputs: Vec::new(),
            detached: false,
            max_fails: None,
            max_processing: None,
            calls: Some(calls),
        };
        Ok(CallSubmission { spec, externals, graph: Arc::new(graph), info })
    }
}

fn possible(options: &CallOptions) -> Result<(), String> {
    if u64::from(options.slots) > AMOUNT_MAX || options.resources.values().any(|n| *n > AMOUNT_MAX) {
        return Err("a task asks for more of a resource than any worker can have".into());
    }
    Ok(())
}

/// Who is meant by an address goes by name from here on.
fn name_workers(options: &mut CallOptions, addresses: &Addresses) -> Result<(), String> {
    for worker in options.workers.iter_mut().filter(|worker| worker.contains("://")) {
        let name = addresses.name(worker);
        *worker = name.ok_or_else(|| {
            format!(
                "no worker has the address {worker} (any more); names and hosts are good for later ones too"
            )
        })?;
    }
    Ok(())
}

/// What a task with these options occupies.
fn layer(options: &CallOptions, size: u32) -> Layer {
    let mut resources = options.resources.clone();
    if !options.workers.is_empty() && !options.loose {
        resources.insert(among(&options.workers), 0);
    }
    Layer {
        size: Size::Fixed(size),
        priority: options.priority,
        slots: options.slots,
        resources,
        memory: options.memory.into_iter().collect(),
        output_size: options.output_size,
        retries: options.retries,
        time_limit_ms: options.time_limit_ms,
        ..Layer::default()
    }
}

fn alike(info: &CallInfo, tasks: usize) -> Vec<Layer> {
    info.options.first().map(|options| layer(options, tasks as u32)).into_iter().collect()
}

fn single(info: &CallInfo, deps_end: &[usize], deps: &[u32]) -> Vec<Layer> {
    let shapes: Vec<Layer> = info.options.iter().map(|options| layer(options, 1)).collect();
    let mut layers = vec![Layer { size: Size::Fixed(1), ..Layer::default() }; info.first as usize];
    layers.reserve(info.option.len());
    let mut from = 0;
    for (&option, &end) in info.option.iter().zip(deps_end) {
        let producer = |dep: &u32| match dep & EXTERNAL {
            0 => FamilyIx(info.first + dep),
            _ => FamilyIx(dep & !EXTERNAL),
        };
        let edge = |dep: &u32| Edge { producer: producer(dep), pattern: Pattern::All, data: true };
        let edges = deps[from..end].iter().map(edge).collect();
        layers.push(Layer { edges, ..shapes[option as usize].clone() });
        from = end;
    }
    layers
}

/// A graph of names only.
fn names(
    info: &CallInfo,
    externals: &[(RunUuid, u32)],
    map: bool,
    tasks: usize,
) -> crate::base::error::Result<Packed> {
    let size = if map { Size::Fixed(tasks as u32) } else { Size::Fixed(1) };
    let family = Family {
        layer: Layer { size, ..Layer::default() },
        spec: spec(),
        items: if map { Items::Index } else { Items::Single },
    };
    let names: FamilyNames = if map {
        [info.name.as_str()].into_iter().collect()
    } else {
        let imports = externals.iter().map(|(run, i)| format!("{run}/{i}"));
        let mut from = 0;
        let keys = info.keys_end.iter().map(|&end| {
            let key = String::from_utf8_lossy(&info.keys[from..end as usize]);
            from = end as usize;
            printable(&key)
        });
        imports.chain(keys).collect()
    };
    Packed::of_names(info.name.clone(), names, family)
}

/// A name on one line.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A specification that says nothing: workers are told about calls in another way.
fn spec() -> TaskSpec {
    TaskSpec {
        name: String::new(),
        action: Action::Argv(Vec::new()),
        inputs: Vec::new(),
        outputs: Vec::new(),
        stdin: Stdin::Auto,
        env: BTreeMap::new(),
        setup: None,
        cwd: None,
        base_dir: std::path::PathBuf::new(),
        umask: 0,
        ok_exit: Vec::new(),
        max_output: None,
        time_limit_ms: None,
        memory: Vec::new(),
        nthreads: crate::graph::layer::SLOT,
        shell: Vec::new(),
        nodes: None,
        gpus: 0,
        params: BTreeMap::new(),
        kept: None,
        checkpoint: None,
    }
}

impl CallInfo {
    /// How many tasks it has, not counting those of other runs.
    pub fn tasks(&self) -> u32 {
        self.batch_end.last().copied().unwrap_or(0)
    }

    /// The batch in which a task (by its number in the core) came.
    pub fn batch_of(&self, task: u32) -> Option<usize> {
        let own = task.checked_sub(self.first)?;
        let at = self.batch_end.partition_point(|end| *end <= own);
        (at < self.batch_end.len()).then_some(at)
    }
}
