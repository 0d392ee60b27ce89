//! From an assignment to a result: sets up what a task needs, runs it on its executor, collects what it made,
//! and leaves nothing behind. Owns the order of these steps; the directory is `place`'s, variables are
//! `environment`'s, processes and functions the executors'. Blocking code for slot threads.

pub mod devices;
pub mod environment;
pub mod nodes;
mod place;

use crate::base::error::{Error, Kind};
use crate::base::ids::{Attempt, TaskRef};
use crate::graph::command::Command;
use crate::graph::items::Item;
use crate::graph::spec::{Action, Stdin, TaskSpec};
use crate::graph::template::{Fault, Mode, Names, Template, quote};
use crate::worker::executor::cgroup::{Group, Groups};
use crate::worker::executor::command::{Capture, CommandExecutor, CommandJob, SHOWN_BYTES, StdinSource, cut};
use crate::worker::executor::control::Control;
use crate::worker::executor::native::{NativeInput, NativeJob};
use crate::worker::executor::{Clock, Executor, Failure, FailureKind, Identified, Outcome};
use crate::worker::store::data::{Data, TaskResult};
use devices::Devices;
use environment::{Environment, Setups, WorkerFacts};
use nodes::Node;
use place::Place;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What the elements of a family execute, parsed once for all of them.
#[derive(Debug)]
pub struct Family {
    spec: TaskSpec,
    names: Names,
    command: Command,
    env: Vec<(String, Template)>,
    cwd: Option<Template>,
    stdin: Option<Template>,
    file_names: Vec<Option<Template>>,
    outputs: Vec<Template>,
}

impl Family {
    /// Parses the templates of a spec.
    ///
    /// # Errors
    /// A placeholder that does not exist: the client has checked that, so it is of another version.
    pub fn parse(spec: TaskSpec) -> Result<Family, Error> {
        let names = Names::of_spec(&spec);
        let say = |fault: Fault| {
            let text = format!("task `{}`: {}", spec.name, fault.message);
            Error::new(Kind::Graph, text).hint(fault.hint)
        };
        let parse = |text: &String, mode| Template::parse(text, &names, mode).map_err(say);
        let command = Command::parse(&spec.action, &names).map_err(say)?;
        let env = spec.env.iter().map(|(name, value)| Ok((name.clone(), parse(value, Mode::Command)?)));
        let env = env.collect::<Result<_, Error>>()?;
        let cwd = spec.cwd.as_ref().map(|text| parse(text, Mode::Path)).transpose()?;
        let stdin = match &spec.stdin {
            Stdin::File(path) => Some(parse(path, Mode::Path)?),
            Stdin::Auto | Stdin::Null | Stdin::Inputs => None,
        };
        let file_name = |text: &Option<String>| text.as_ref().map(|text| parse(text, Mode::Path)).transpose();
        let file_names = spec.inputs.iter().map(|i| file_name(&i.file_name)).collect::<Result<_, Error>>()?;
        let outputs =
            spec.outputs.iter().map(|o| parse(&o.path, Mode::Path)).collect::<Result<_, Error>>()?;
        Ok(Family { command, env, cwd, stdin, file_names, outputs, names, spec })
    }

    /// The spec that it was made of.
    pub fn spec(&self) -> &TaskSpec {
        &self.spec
    }

    /// Whether the n-th input is put into the task's directory without being asked for by a placeholder.
    fn is_placed(&self, input: usize) -> bool {
        self.spec.inputs[input].materialize || self.file_names[input].is_some()
    }

    /// The command as it stands in the graph: for failures before it could be rendered.
    fn shown(&self) -> String {
        let text = match &self.spec.action {
            Action::Argv(argv) => argv.iter().map(|a| quote(a)).collect::<Vec<_>>().join(" "),
            Action::Shell(line) => line.clone(),
            Action::Native { function, .. } => function.clone(),
        };
        cut(text, SHOWN_BYTES)
    }
}

/// A task to run here, with everything that it needs.
#[derive(Debug)]
pub struct Assignment {
    /// The task.
    pub task: TaskRef,
    /// The attempt at it.
    pub attempt: Attempt,
    /// Its key.
    pub key: String,
    /// Its index in its family.
    pub index: u32,
    /// How many attempts at it have failed before.
    pub tries: u32,
    /// Its element's value.
    pub item: Item,
    /// What its family executes.
    pub family: Arc<Family>,
    /// For each of the spec's inputs, in order: the producing tasks' keys and their results.
    pub inputs: Vec<Vec<(String, Arc<TaskResult>)>>,
    /// The workers that it has to itself, first this one; empty for a task on a part of one.
    pub nodes: Vec<Node>,
}

impl Assignment {
    /// The memory that is declared for this attempt, bytes.
    fn declared_bytes(&self) -> Option<u64> {
        let declared = &self.family.spec.memory;
        declared.get(self.tries as usize).or(declared.last()).copied().filter(|&bytes| bytes > 0)
    }
}

impl Identified for Assignment {
    fn id(&self) -> (TaskRef, Attempt) {
        (self.task, self.attempt)
    }
}

/// Runs assignments: the executor of a worker's pool.
pub struct Runner {
    facts: WorkerFacts,
    commands: CommandExecutor,
    natives: Box<dyn Executor<NativeJob>>,
    setups: Setups,
    devices: Devices,
    enforce: Enforce,
}

/// How the memory that tasks declare is enforced.
#[derive(Debug, Default)]
pub enum Enforce {
    /// Not at all.
    #[default]
    Never,
    /// The worker looks at their processes.
    Watching,
    /// Each gets a control group.
    Groups(Groups),
}

impl Enforce {
    /// Whether it is enforced at all.
    pub fn is_on(&self) -> bool {
        !matches!(self, Enforce::Never)
    }
}

impl Runner {
    /// With the executors that it shall use.
    pub fn new(
        facts: WorkerFacts,
        commands: CommandExecutor,
        natives: impl Executor<NativeJob> + 'static,
    ) -> Runner {
        let natives = Box::new(natives);
        let devices = Devices::of(&facts);
        Runner { facts, commands, natives, setups: Setups::default(), devices, enforce: Enforce::Never }
    }

    /// The same, with declared memory as a hard limit.
    pub fn enforcing(self, enforce: Enforce) -> Runner {
        Runner { enforce, ..self }
    }

    /// The group of a task that gets one; else, if its memory is enforced, it is watched.
    fn confine(&self, assignment: &Assignment, control: &Control) -> Option<Group> {
        let declared = assignment.declared_bytes()?;
        match &self.enforce {
            Enforce::Never => None,
            Enforce::Watching => {
                control.set_bound(declared);
                None
            }
            Enforce::Groups(groups) => match groups.create(declared) {
                Ok(group) => Some(group),
                Err(error) => {
                    tracing::warn!(
                        task = assignment.key,
                        "cannot make a control group, watching it: {error}"
                    );
                    control.set_bound(declared);
                    None
                }
            },
        }
    }

    fn run_native(&self, mut assignment: Assignment, control: &Control) -> Outcome {
        // An executor runs one task after the other and cannot change groups; without one it has no process.
        if let (Some(declared), false) = (assignment.declared_bytes(), matches!(self.enforce, Enforce::Never))
        {
            control.set_bound(declared);
        }
        let family = assignment.family.clone();
        let Action::Native { function, args } = &family.spec.action else {
            return Outcome::failed(Failure::new(FailureKind::Prepare("this is no native task".into())));
        };
        if let Some(output) = family.spec.outputs.first() {
            let text = format!("native functions make no named outputs such as `{}`", output.name);
            return Outcome::failed(Failure::new(FailureKind::MissingOutput(text)));
        }
        let producers = family.spec.inputs.iter().map(|input| &input.producer);
        let inputs = std::mem::take(&mut assignment.inputs);
        let inputs = producers.zip(inputs).flat_map(|(producer, results)| {
            let producer = producer.clone();
            results.into_iter().map(move |(key, result)| NativeInput {
                producer: producer.clone(),
                key,
                result,
            })
        });
        let job = NativeJob {
            key: assignment.key,
            index: assignment.index,
            item: assignment.item,
            attempt: assignment.attempt,
            function: function.clone(),
            args: args.clone(),
            inputs: inputs.collect(),
            max_output: family.spec.max_output,
            time_limit: family.spec.time_limit_ms.map(Duration::from_millis),
        };
        self.natives.run(job, control)
    }

    fn run_command(&self, assignment: &Assignment, control: &Control) -> Outcome {
        let place = match Place::create(&self.facts, assignment) {
            Ok(place) => place,
            Err(error) => return not_prepared(assignment, error.to_string()),
        };
        let Some(devices) = self.devices.take(assignment.family.spec.gpus, control) else {
            let cancelled = Failure { reason: control.reason(), ..Failure::new(control.verdict()) };
            return Outcome::failed(cancelled);
        };
        let job = match self.prepare(assignment, &place, &devices.variables(), control) {
            Ok(job) => job,
            Err(mut failure) => {
                failure.command = assignment.family.shown();
                return Outcome::failed(*failure);
            }
        };
        let shown = job.shown.clone();
        let mut outcome = self.commands.run(job, control);
        if let Ok(result) = &mut outcome.result {
            match place.collect(&assignment.family.spec) {
                Ok((parts, unpublished)) => {
                    result.parts.extend(parts);
                    outcome.unpublished = unpublished;
                }
                Err(kind) => {
                    let command =
                        if shown.is_empty() { assignment.family.shown() } else { cut(shown, SHOWN_BYTES) };
                    outcome.result = Err(Failure { command, ..Failure::new(kind) });
                }
            }
        }
        outcome
    }

    fn prepare(
        &self,
        assignment: &Assignment,
        place: &Place<'_>,
        devices: &[(&'static str, String)],
        control: &Control,
    ) -> Result<CommandJob, Box<Failure>> {
        let (family, spec) = (&*assignment.family, &assignment.family.spec);
        let say = |error: Error| Box::new(Failure::new(FailureKind::Prepare(error.to_string())));
        let shell = if spec.shell.is_empty() { &self.facts.shell } else { &spec.shell };
        let setup = match &spec.setup {
            Some(setup) => {
                let sourced = self.setups.find_or_source(
                    setup,
                    shell,
                    &spec.base_dir,
                    &self.facts,
                    &self.commands,
                    control,
                );
                Some(sourced.map_err(Box::new)?)
            }
            None => None,
        };
        place.place_inputs().map_err(say)?;
        let cwd = match &family.cwd {
            Some(cwd) => {
                let cwd = spec.base_dir.join(cwd.render(place).map_err(say)?);
                std::fs::create_dir_all(&cwd).map_err(|e| say(Error::file("cannot create", &cwd, &e)))?;
                cwd
            }
            None => place.dir().to_path_buf(),
        };
        let words = family.command.render(place).map_err(say)?;
        let group = self.confine(assignment, control);
        let (argv, shown, capture) = match &spec.action {
            // Pipe or file: see `executor::command`. What a task in a group writes to a memory file would
            // count against its limit, and a result is no private memory.
            Action::Shell(_) => {
                let shown = words.concat();
                (shell.iter().cloned().chain(words).collect(), shown, Capture::Pipe)
            }
            Action::Argv(_) | Action::Native { .. } => {
                (words, String::new(), if group.is_some() { Capture::Pipe } else { Capture::File })
            }
        };
        let stdin = stdin_of(assignment, place).map_err(say)?;
        let env = Environment { facts: &self.facts, setup: setup.as_ref(), assignment, cwd: &cwd, devices };
        let env = env.build(&family.names, &family.env, place).map_err(say)?;
        Ok(CommandJob {
            key: assignment.key.clone(),
            argv,
            shown,
            env,
            cwd,
            stdin,
            capture,
            ok_exit: spec.ok_exit.clone(),
            max_output: spec.max_output,
            time_limit: spec.time_limit_ms.map(Duration::from_millis),
            umask: Some(spec.umask).filter(|&mask| mask != self.facts.umask),
            error_file: Some(place.error_file()),
            group,
        })
    }
}

impl Executor<Assignment> for Runner {
    fn run(&self, assignment: Assignment, control: &Control) -> Outcome {
        let clock = Clock::start();
        let native = matches!(assignment.family.spec.action, Action::Native { .. });
        let outcome = if assignment.inputs.len() != assignment.family.spec.inputs.len() {
            let (got, wanted) = (assignment.inputs.len(), assignment.family.spec.inputs.len());
            not_prepared(&assignment, format!("it got {got} inputs instead of {wanted}"))
        } else if native {
            self.run_native(assignment, control)
        } else {
            self.run_command(&assignment, control)
        };
        // Setting up and collecting take time too.
        let whole = clock.outcome(outcome.result, outcome.cpu, outcome.max_rss_bytes);
        Outcome { unpublished: outcome.unpublished, ..whole }
    }
}

fn not_prepared(assignment: &Assignment, message: String) -> Outcome {
    let command = assignment.family.shown();
    Outcome::failed(Failure { command, ..Failure::new(FailureKind::Prepare(message)) })
}

/// What the task reads on stdin. `Auto` leaves out inputs that have a file of their own in its directory.
fn stdin_of(assignment: &Assignment, place: &Place<'_>) -> Result<StdinSource, Error> {
    let (family, spec) = (&assignment.family, &assignment.family.spec);
    if let Some(path) = &family.stdin {
        return Ok(StdinSource::File(spec.base_dir.join(path.render(place)?)));
    }
    if !family.command.reads_inputs(&spec.stdin) {
        return Ok(StdinSource::Inputs(Vec::new()));
    }
    let all = spec.stdin == Stdin::Inputs;
    let inputs = assignment.inputs.iter().enumerate().filter(|(at, _)| all || !family.is_placed(*at));
    let data =
        inputs.flat_map(|(_, results)| results).filter_map(|(_, result)| result.find_part("").cloned());
    Ok(StdinSource::Inputs(data.collect::<Vec<Data>>()))
}

/// A path of the user's that must stay inside a directory, as it was meant to.
fn check_inside<'a>(path: &'a str, what: &str) -> Result<&'a Path, Error> {
    let inside = |part: std::path::Component<'_>| {
        matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir)
    };
    if !path.is_empty() && Path::new(path).components().all(inside) {
        return Ok(Path::new(path));
    }
    Err(Error::new(
        Kind::Graph,
        format!("{what} `{path}` must lie in the task's directory: no `/` before it, no `..`"),
    ))
}

#[cfg(test)]
mod tests;
