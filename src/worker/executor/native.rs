//! Native tasks: Rust functions registered by name, run on the slot threads. Owns the registry and what a
//! function sees of its task; those that come with hpcdag are in `builtin`. A function cannot be ended from
//! outside: it is asked to stop and should look now and then.

use super::control::Control;
use super::pool::panic_text;
use super::{Clock, Executor, Failure, FailureKind, Outcome, builtin};
use crate::base::ids::Attempt;
use crate::graph::items::Item;
use crate::worker::store::data::{Data, TaskResult};
use crate::worker::store::memfile::{HEAP_BYTES_MAX, MemWriter};
use bytes::Bytes;
use memmap2::MmapMut;
use nix::sys::resource::{UsageWho, getrusage};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A function that tasks can name. The error is what the user reads.
pub type NativeFunction = Arc<dyn Fn(&mut NativeContext<'_>) -> Result<(), String> + Send + Sync>;

/// Functions by name.
pub struct Registry {
    functions: RwLock<BTreeMap<String, NativeFunction>>,
}

impl Default for Registry {
    /// With the functions that come with hpcdag: noop, sleep, busy, bytes, mix, transient,
    /// leak, concat, checksum, fail.
    fn default() -> Registry {
        let registry = Registry { functions: RwLock::default() };
        builtin::register(&registry);
        registry
    }
}

impl Registry {
    /// Adds a function; one of the same name is replaced.
    pub fn register<F>(&self, name: &str, function: F)
    where
        F: Fn(&mut NativeContext<'_>) -> Result<(), String> + Send + Sync + 'static,
    {
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        functions.insert(name.to_string(), Arc::new(function));
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// The function of a name; otherwise what to say to the user.
    pub fn find(&self, name: &str) -> Result<NativeFunction, String> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        functions.get(name).cloned().ok_or_else(|| {
            let names: Vec<&str> = functions.keys().map(String::as_str).collect();
            format!("this worker has no native function `{name}`; it has {}", names.join(", "))
        })
    }
}

/// A native task to run.
#[derive(Debug)]
pub struct NativeJob {
    /// The task's key.
    pub key: String,
    /// Its index in its family.
    pub index: u32,
    /// Its element's value.
    pub item: Item,
    /// Which attempt it is.
    pub attempt: Attempt,
    /// The registered name.
    pub function: String,
    /// What the graph says under `args`.
    pub args: serde_json::Value,
    /// Its inputs, in order.
    pub inputs: Vec<NativeInput>,
    /// A longer output than this fails it, bytes.
    pub max_output: Option<u64>,
    /// After this time it is asked to stop, and fails.
    pub time_limit: Option<Duration>,
}

/// One input of a native task.
#[derive(Clone, Debug)]
pub struct NativeInput {
    /// The producing family.
    pub producer: String,
    /// The producing task's key.
    pub key: String,
    /// All that it made.
    pub result: Arc<TaskResult>,
}

impl NativeInput {
    /// The unnamed part's bytes (a command's stdout); none if there is no such part. Large ones are mapped.
    pub fn bytes(&self) -> io::Result<Bytes> {
        self.result.find_part("").map_or_else(|| Ok(Bytes::new()), Data::bytes)
    }
}

/// What a native function sees of its task, and where it puts its output.
pub struct NativeContext<'a> {
    job: &'a NativeJob,
    control: &'a Control,
    deadline: Option<Instant>,
    output: Output,
}

/// Output as it grows.
enum Output {
    Heap(Vec<u8>),
    Mapped(MemWriter, MmapMut),
    /// What has been written, and what has not yet.
    File(MemWriter, Vec<u8>),
}

/// Writes smaller than this are gathered.
const BUFFER_BYTES: usize = 256 << 10;

impl<'a> NativeContext<'a> {
    /// The task's key.
    pub fn key(&self) -> &'a str {
        &self.job.key
    }

    /// The element's index in its family, from 0.
    pub fn index(&self) -> u32 {
        self.job.index
    }

    /// The element's value.
    pub fn item(&self) -> &'a Item {
        &self.job.item
    }

    /// Which attempt this is.
    pub fn attempt(&self) -> Attempt {
        self.job.attempt
    }

    /// What the graph says under `args`.
    pub fn args(&self) -> &'a serde_json::Value {
        &self.job.args
    }

    /// The inputs, in order.
    pub fn inputs(&self) -> &'a [NativeInput] {
        &self.job.inputs
    }

    /// Whether to stop: cancelled, or over its time limit. What it has made does not count then.
    pub fn is_cancelled(&self) -> bool {
        self.control.is_cancelled() || self.deadline.is_some_and(|at| Instant::now() >= at)
    }

    /// Sleeps, but not longer than it may run. Whether to stop.
    pub fn sleep(&self, time: Duration) -> bool {
        let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        self.control.sleep(left.map_or(time, |left| left.min(time)));
        self.is_cancelled()
    }

    /// Room for an output of `len` bytes, all zero, to be filled in place: it becomes the result without a
    /// copy. At most once, and not together with `write`.
    pub fn alloc(&mut self, len: usize) -> io::Result<&mut [u8]> {
        if !matches!(&self.output, Output::Heap(written) if written.is_empty()) {
            return Err(io::Error::other(
                "alloc is for the whole output: call it once, and before any write",
            ));
        }
        self.check_size(len as u64)?;
        if len as u64 > HEAP_BYTES_MAX {
            let writer = MemWriter::create(self.key())?;
            writer.file().set_len(len as u64)?;
            // SAFETY: the file is new and known only to this value, which does not shrink it.
            let map = unsafe { MmapMut::map_mut(writer.file())? };
            self.control.set_capture(Some(writer.file()));
            self.output = Output::Mapped(writer, map);
        } else {
            self.output = Output::Heap(vec![0; len]);
        }
        match &mut self.output {
            Output::Mapped(_, map) => Ok(map),
            Output::Heap(bytes) | Output::File(_, bytes) => Ok(bytes),
        }
    }

    /// Appends to the output.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = match &self.output {
            Output::Heap(all) => all.len() as u64,
            Output::Mapped(..) => return Err(io::Error::other("write cannot follow alloc")),
            Output::File(file, rest) => file.size()? + rest.len() as u64,
        };
        self.check_size(written + bytes.len() as u64)?;
        if let Output::Heap(all) = &mut self.output {
            all.extend_from_slice(bytes);
            if all.len() as u64 > HEAP_BYTES_MAX {
                let rest = std::mem::take(all);
                let writer = MemWriter::create(&self.job.key)?;
                self.control.set_capture(Some(writer.file()));
                self.output = Output::File(writer, rest);
            }
        } else if let Output::File(file, rest) = &mut self.output {
            if rest.len() + bytes.len() > BUFFER_BYTES {
                file.file().write_all(rest)?;
                rest.clear();
            }
            if bytes.len() > BUFFER_BYTES {
                return file.file().write_all(bytes);
            }
            rest.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn check_size(&self, len: u64) -> io::Result<()> {
        match self.job.max_output {
            Some(max) if len > max => Err(io::Error::other(format!("the output is larger than {max} bytes"))),
            _ => Ok(()),
        }
    }

    fn finish(self) -> io::Result<Data> {
        self.control.set_capture(None);
        match self.output {
            Output::Heap(bytes) => Data::of_bytes(bytes.into()),
            Output::Mapped(writer, map) => {
                // It could not be sealed while it is mapped.
                drop(map);
                Data::of_writer(writer)
            }
            Output::File(writer, rest) => {
                writer.file().write_all(&rest)?;
                Data::of_writer(writer)
            }
        }
    }
}

/// Runs native functions.
pub struct NativeExecutor {
    registry: Arc<Registry>,
}

impl NativeExecutor {
    /// With the functions of a registry; those added later count too.
    pub fn new(registry: Arc<Registry>) -> NativeExecutor {
        NativeExecutor { registry }
    }

    fn call(&self, job: &NativeJob, control: &Control) -> Result<Data, FailureKind> {
        let function = self.registry.find(&job.function).map_err(FailureKind::Native)?;
        let deadline = job.time_limit.map(|limit| Instant::now() + limit);
        let mut context = NativeContext { job, control, deadline, output: Output::Heap(Vec::new()) };
        let called = catch_unwind(AssertUnwindSafe(|| function(&mut context)));
        let late = deadline.is_some_and(|at| Instant::now() >= at);
        if !matches!(called, Ok(Ok(()))) || late || control.is_cancelled() {
            // Before the memory file is closed, for others look at it.
            control.set_capture(None);
        }
        let returned = called.map_err(|panic| {
            let said = panic_text(&*panic);
            FailureKind::Native(format!("the function `{}` panicked: {said}", job.function))
        })?;
        if control.is_cancelled() {
            return Err(FailureKind::Cancelled);
        }
        if late {
            return Err(FailureKind::TimeLimit);
        }
        returned.map_err(FailureKind::Native)?;
        context.finish().map_err(|error| FailureKind::Result(format!("cannot keep its output: {error}")))
    }
}

impl Executor<NativeJob> for NativeExecutor {
    fn run(&self, job: NativeJob, control: &Control) -> Outcome {
        let clock = Clock::start();
        let before = thread_time();
        let result = self.call(&job, control).map(TaskResult::of).map_err(|kind| Failure {
            reason: control.reason().filter(|_| kind == FailureKind::Cancelled),
            command: job.function.clone(),
            ..Failure::new(kind)
        });
        clock.outcome(result, thread_time().saturating_sub(before), 0)
    }
}

fn thread_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else { return Duration::ZERO };
    let time = |t: nix::sys::time::TimeVal| {
        Duration::from_secs(u64::try_from(t.tv_sec()).unwrap_or(0))
            + Duration::from_micros(u64::try_from(t.tv_usec()).unwrap_or(0))
    };
    time(usage.user_time()) + time(usage.system_time())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(function: &str, args: serde_json::Value, inputs: &[&[u8]]) -> NativeJob {
        let inputs = inputs.iter().map(|bytes| NativeInput {
            producer: "p".into(),
            key: "p[0]".into(),
            result: Arc::new(TaskResult::of(Data::of_bytes(Bytes::copy_from_slice(bytes)).unwrap())),
        });
        NativeJob {
            key: "k".into(),
            index: 0,
            item: Item::None,
            attempt: Attempt { epoch: 1, n: 1 },
            function: function.into(),
            args,
            inputs: inputs.collect(),
            max_output: None,
            time_limit: None,
        }
    }

    fn run(job: NativeJob) -> Result<Data, String> {
        let executor = NativeExecutor::new(Arc::default());
        executor.registry.register("panics", |_| panic!("at the disco"));
        executor.registry.register("pieces", |context| {
            for n in 0..100_000u32 {
                context.write(&n.to_le_bytes()).map_err(|e| e.to_string())?;
            }
            context.write(&[9; 600_000]).map_err(|e| e.to_string())
        });
        executor.registry.register("twice", |context| {
            context.alloc(10).map_err(|e| e.to_string())?;
            context.alloc(10).map_err(|e| e.to_string()).map(|_| ())
        });
        let outcome = executor.run(job, &Control::new().unwrap());
        outcome.result.map(|r| r.parts[0].1.clone()).map_err(|f| f.to_string())
    }

    fn bytes(job: NativeJob) -> Bytes {
        run(job).unwrap().bytes().unwrap()
    }

    #[test]
    fn the_builtin_functions_do_what_they_say() {
        assert!(bytes(job("noop", json!(null), &[])).is_empty());
        assert_eq!(&bytes(job("bytes", json!({"size": 3, "fill": 7}), &[]))[..], [7, 7, 7]);
        let large = run(job("bytes", json!({"size": "1 MiB"}), &[])).unwrap();
        assert!(matches!(large, Data::File(_)) && large.len() == 1 << 20);
        assert_eq!(&bytes(job("concat", json!({}), &[b"ab", b"", b"c"]))[..], b"abc");
        assert_eq!(&bytes(job("checksum", json!({}), &[b"12345", b"6789"]))[..], b"cbf43926\n");
        run(job("sleep", json!({"seconds": 0.01}), &[])).unwrap();
        run(job("busy", json!({"seconds": 0.01}), &[])).unwrap();
        run(job("busy", json!({"iterations": 1000}), &[])).unwrap();
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (function, args, said) in [
            ("bytes", json!({}), "`size`"),
            ("bytes", json!({"size": "many"}), "`size`"),
            ("bytes", json!({"size": 1, "fil": 2}), "`fil`"),
            ("sleep", json!({"seconds": -1}), "`seconds`"),
            ("nop", json!({}), "no native function `nop`; it has busy, bytes"),
        ] {
            let error = run(job(function, args, &[])).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn failing_goes_by_attempt() {
        let mut failing = job("fail", json!({"message": "by request", "times": 1}), &[]);
        assert_eq!(run(failing).unwrap_err(), "by request");
        failing = job("fail", json!({"times": 1}), &[]);
        failing.attempt.n = 2;
        run(failing).unwrap();
    }

    #[test]
    fn a_panic_fails_the_task() {
        let error = run(job("panics", json!(null), &[])).unwrap_err();
        assert!(error.contains("`panics` panicked: at the disco"), "{error}");
    }

    #[test]
    fn many_small_writes_make_one_output() {
        let got = bytes(job("pieces", json!(null), &[]));
        assert_eq!(got.len(), 1_000_000);
        assert_eq!(got[4 * 77_777..][..4], 77_777u32.to_le_bytes());
        assert!(run(job("twice", json!(null), &[])).unwrap_err().contains("once"));
    }

    #[test]
    fn limits_hold() {
        let mut long = job("sleep", json!({"seconds": 60}), &[]);
        long.time_limit = Some(Duration::from_millis(20));
        assert_eq!(run(long).unwrap_err(), "its time limit is over");
        let mut large = job("bytes", json!({"size": 100}), &[]);
        large.max_output = Some(99);
        assert!(run(large).unwrap_err().contains("99 bytes"));
    }
}
