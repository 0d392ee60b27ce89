//! What the elements of a family execute and how their inputs and outputs are wired: the half of a family
//! that workers read. Owns the data only; `template` renders it, the worker's executors run it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What every element of one family executes. Strings marked *template* may hold placeholders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The family's name, as in `[task.NAME]`.
    pub name: String,
    /// What is executed.
    pub action: Action,
    /// Its data inputs, one for each edge of the layer with `data`, in the same order.
    pub inputs: Vec<Input>,
    /// Named outputs besides stdout.
    pub outputs: Vec<Output>,
    /// What stdin is.
    pub stdin: Stdin,
    /// Variables to set, values are templates; after the worker's own and those of `setup`.
    pub env: BTreeMap<String, String>,
    /// Name and lines of the `[env.X]` in use: sourced once per worker, the resulting variables reused.
    pub setup: Option<Setup>,
    /// Working directory (template), created if missing, relative to `base_dir`; the task's own directory
    /// if `None`.
    pub cwd: Option<String>,
    /// Directory of the graph file (or of the submitting shell): relative paths of the file refer to it.
    pub base_dir: PathBuf,
    /// The submitter's umask.
    pub umask: u32,
    /// Exit codes that count as success.
    pub ok_exit: Vec<i32>,
    /// A capture longer than this fails the task, bytes.
    pub max_output: Option<u64>,
    /// Time limit of one attempt, milliseconds.
    pub time_limit_ms: Option<u64>,
    /// Declared peak private memory, bytes (a list: by attempt); empty when not declared. What the scheduler
    /// plans with stands in the layer; here it is for workers that enforce it.
    pub memory: Vec<u64>,
    /// How many threads the task may use (its share, at least 1): for `OMP_NUM_THREADS` and its likes.
    pub nthreads: u32,
    /// Interpreter for `shell`, e.g. `bash -eo pipefail -c`; the worker's configured one if empty.
    pub shell: Vec<String>,
    /// Nodes wanted and ranks on each, if the graph says anything about them.
    pub nodes: Option<Nodes>,
    /// GPUs that an element occupies, in 1/10,000: the worker chooses the devices.
    pub gpus: u64,
    /// Parameters of the graph: placeholders by name.
    pub params: BTreeMap<String, String>,
    /// Elements that an earlier run has done.
    #[serde(default)]
    pub kept: Option<Kept>,
    /// Where results go that would be lost with all workers.
    #[serde(default)]
    pub checkpoint: Option<Checkpoint>,
}

/// Where results go that would be lost with all workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// A directory that all nodes share.
    pub directory: PathBuf,
    /// Stands for what the family's tasks make: results count only as long as it is the same.
    pub fingerprint: String,
}

/// What a task that starts an MPI program, or the like, asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// Whole nodes; 1 for a part of one.
    pub count: u32,
    /// Ranks on each; if it is not said, as many as its threads allow there.
    pub ranks: Option<u32>,
}

/// Elements that do not run because an earlier run has done them. Ranges are (first, behind the last),
/// ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Nobody needs their results: they are empty.
    pub skip: Vec<(u32, u32)>,
    /// Their results are files, which stay where they are.
    pub load: Vec<(u32, u32)>,
    /// The files: part (empty for stdout), path template relative to `base_dir`, whether there is none when
    /// the part is empty.
    pub files: Vec<(String, String, bool)>,
    /// Elements whose results are in a checkpoint, ascending: their parts (empty for stdout) and files.
    #[serde(default)]
    pub stored: Vec<(u32, Vec<(String, PathBuf)>)>,
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// A program with arguments (templates), no shell in between.
    Argv(Vec<String>),
    /// A line (template) for the shell; values are quoted.
    Shell(String),
    /// A function registered in the worker, and its arguments.
    Native {
        /// Its registered name.
        function: String,
        /// Whatever the graph says under `args`.
        args: serde_json::Value,
    },
}

/// One data input: the results of one producing family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// The producing family's name: `{in.NAME}`.
    pub producer: String,
    /// Whether paths given to the task are real files in its directory rather than links.
    pub materialize: bool,
    /// The file name (template) the input has in the task's directory, where that matters.
    pub file_name: Option<String>,
}

/// A named output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Its name: `{out.NAME}`, and `{in.FAMILY.NAME}` downstream.
    pub name: String,
    /// Where the task writes it (template): in the task's directory, or for in-place ones relative to
    /// `base_dir`.
    pub path: String,
    /// Whether the file stays where it is (a parallel file system): then only path, size and mtime travel.
    pub in_place: bool,
}

/// What a task reads on stdin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Stdin {
    /// All inputs, concatenated in order, unless the action names inputs by placeholder; nothing without
    /// inputs.
    Auto,
    /// Nothing (`/dev/null`).
    Null,
    /// All inputs, concatenated in order, even if placeholders name them too.
    Inputs,
    /// A file (template), relative to `base_dir`.
    File(String),
}

/// A named environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Its name, `[env.NAME]`.
    pub name: String,
    /// Shell lines to source.
    pub lines: Vec<String>,
    /// Variables to set besides.
    pub vars: BTreeMap<String, String>,
}
