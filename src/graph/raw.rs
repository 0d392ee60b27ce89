//! A graph file after decoding and before any name is looked up: what was written, and where. Owns the types
//! only; `decode` makes them, `build` turns them into a `Graph`.

use super::layer::Border;
use super::spec::{Action, Stdin};
use std::collections::BTreeMap;
use std::ops::Range;

/// Something and its place in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct At<T> {
    /// Bytes of the source.
    pub span: Range<usize>,
    /// What stands there.
    pub it: T,
}

/// The whole file.
#[derive(Clone, Debug, Default)]
pub struct RawGraph {
    /// `params`, values as text.
    pub params: Vec<(At<String>, String)>,
    /// `[task.*]` in the order of the file.
    pub tasks: Vec<RawTask>,
    /// `[env.*]`.
    pub envs: Vec<RawEnv>,
    /// `[output]`.
    pub outputs: Vec<RawOutput>,
    /// `[on] success`.
    pub on_success: Option<At<Action>>,
    /// `[on] failure`.
    pub on_failure: Option<At<Action>>,
}

/// `[env.NAME]`.
#[derive(Clone, Debug)]
pub struct RawEnv {
    /// Its name.
    pub name: At<String>,
    /// Lines to source.
    pub lines: Vec<String>,
    /// Variables to set.
    pub vars: BTreeMap<String, String>,
}

/// An entry of `[output]`.
#[derive(Clone, Debug)]
pub struct RawOutput {
    /// The task, or `task.output`.
    pub target: At<String>,
    /// Where to.
    pub path: At<String>,
    /// Who writes.
    pub by: Option<super::By>,
    /// Whether empty results leave no file.
    pub skip_empty: bool,
}

/// `[task.NAME]`.
#[derive(Clone, Debug)]
pub struct RawTask {
    /// Its name.
    pub name: At<String>,
    /// `argv`, `shell` or `native`, with the place of each text that may have placeholders.
    pub action: Option<At<Action>>,
    /// Places of the arguments, or of the shell line.
    pub texts: Vec<Range<usize>>,
    /// `args` of a native function.
    pub args: Option<At<serde_json::Value>>,
    /// `for-each`.
    pub for_each: Option<At<RawEach>>,
    /// `from`.
    pub from: Vec<RawEdge>,
    /// `after`.
    pub after: Vec<RawEdge>,
    /// `outputs`.
    pub outputs: Vec<RawPart>,
    /// `env`.
    pub env: Vec<(String, At<String>)>,
    /// `use`.
    pub setup: Option<At<String>>,
    /// `cwd`.
    pub cwd: Option<At<String>>,
    /// `stdin`.
    pub stdin: Option<At<Stdin>>,
    /// Everything that is a plain number or size.
    pub limits: Limits,
}

/// What a task occupies and may use.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// `nthreads`, 1/10,000.
    pub nthreads: Option<u64>,
    /// `resources` and `gpus`, 1/10,000.
    pub resources: BTreeMap<String, u64>,
    /// `nodes`.
    pub nodes: Option<u32>,
    /// `ranks-per-node`.
    pub ranks: Option<u32>,
    /// `memory`, bytes by attempt.
    pub memory: Vec<u64>,
    /// `output-size`, bytes.
    pub output_size: Option<u64>,
    /// `max-output`, bytes.
    pub max_output: Option<u64>,
    /// `retries`.
    pub retries: u32,
    /// `time-limit`, milliseconds.
    pub time_limit_ms: Option<u64>,
    /// `priority`.
    pub priority: i32,
    /// `ok-exit`.
    pub ok_exit: Vec<i32>,
}

/// A named output of a task.
#[derive(Clone, Debug)]
pub struct RawPart {
    /// Its name.
    pub name: At<String>,
    /// Where the task writes it.
    pub path: At<String>,
    /// Whether it stays there.
    pub in_place: bool,
}

/// One producer under `from` or `after`.
#[derive(Clone, Debug)]
pub struct RawEdge {
    /// The producer.
    pub producer: At<String>,
    /// How its elements connect.
    pub wire: At<Wire>,
    /// `materialize`.
    pub materialize: bool,
    /// `as`.
    pub file_name: Option<At<String>>,
}

/// How elements connect, as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Wire {
    /// Not said: the producer is just named.
    Unsaid,
    /// `"each"`
    Each,
    /// `"all"`
    All,
    /// `"broadcast"`
    Broadcast,
    /// `{window = [low, high], edge = …}`
    Window(i32, i32, Border),
    /// `{tree = n}`
    Tree(u32),
    /// `{group = n}`
    Group(u32),
    /// `{group-bytes = "…"}`
    GroupBytes(u64),
}

/// `for-each`.
#[derive(Clone, Debug)]
pub struct RawEach {
    /// Where the elements come from.
    pub list: List,
    /// `allow-empty`.
    pub allow_empty: bool,
}

/// Where elements come from.
#[derive(Clone, Debug)]
pub enum List {
    /// `range = [a, b]` or `[a, b, step]`; texts, for they may be parameters.
    Range(Vec<At<String>>),
    /// `values`
    Values(Vec<At<String>>),
    /// `glob`, one or more patterns
    Glob(Vec<At<String>>),
    /// `lines`
    Lines(At<String>),
    /// `matrix`
    Matrix(Vec<(At<String>, List)>),
    /// `blocks`: patterns and the size aimed at
    Blocks(Vec<At<String>>, u64),
    /// `same-as`
    SameAs(At<String>),
}
