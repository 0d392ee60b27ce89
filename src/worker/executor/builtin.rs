//! The native functions that come with hpcdag, for tests, benchmarks and small steps of graphs.

use super::native::{NativeContext, Registry};
use crate::base::units;
use serde_json::{Map, Value};
use std::io;
use std::time::{Duration, Instant};

/// How long busy loops go on before they look whether to stop.
const ROUNDS: u64 = 100_000;

/// Adds them to a registry.
pub(super) fn register(registry: &Registry) {
    registry.register("noop", |context| Args::of(context, &[]).map(|_| ()));
    registry.register("sleep", sleep);
    registry.register("busy", busy);
    registry.register("replay", replay);
    registry.register("bytes", bytes);
    registry.register("mix", mix);
    registry.register("transient", transient);
    registry.register("leak", leak);
    registry.register("concat", concat);
    registry.register("checksum", checksum);
    registry.register("fail", fail);
}

/// Sleeps `seconds`.
fn sleep(context: &mut NativeContext<'_>) -> Result<(), String> {
    let time = Args::of(context, &["seconds"])?.seconds()?.ok_or("the argument `seconds` is missing")?;
    context.sleep(time);
    Ok(())
}

/// Computes for `seconds`, or `iterations` of a fixed piece of work, and makes `size` bytes (none).
fn busy(context: &mut NativeContext<'_>) -> Result<(), String> {
    let args = Args::of(context, &["seconds", "iterations", "size"])?;
    let until = args.seconds()?.map(|time| Instant::now() + time);
    let iterations = args.number("iterations")?;
    if until.is_none() && iterations.is_none() {
        return Err("an argument is missing: `seconds` or `iterations`".into());
    }
    compute(context, iterations, until);
    let size = usize::try_from(args.bytes("size")?.unwrap_or(0)).map_err(|_| "`size` is too large")?;
    if size > 0 {
        context.alloc(size).map_err(text)?.fill(0);
    }
    Ok(())
}

/// Computes for so many iterations of a fixed piece of work, or until then.
fn compute(context: &NativeContext<'_>, iterations: Option<u64>, until: Option<Instant>) {
    let (mut done, mut value) = (0, 1u64);
    while iterations.is_none_or(|n| done < n)
        && until.is_none_or(|at| Instant::now() < at)
        && !context.is_cancelled()
    {
        let round = iterations.map_or(ROUNDS, |n| (n - done).min(ROUNDS));
        for _ in 0..round {
            value = std::hint::black_box(value.wrapping_mul(6364136223846793005).wrapping_add(1));
        }
        done += round;
    }
}

/// What `hpcdag bench replay` runs: computes for `seconds`, and makes as many bytes as `sizes` says for the
/// element, or, with `draw`, as one of `sizes` that follows from the task's key.
fn replay(context: &mut NativeContext<'_>) -> Result<(), String> {
    // Not copied as `Args` are: there may be thousands of sizes.
    let args = context.args();
    let time = args.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
    let time = Duration::try_from_secs_f64(time).map_err(|e| format!("`seconds`: {e}"))?;
    let sizes = args.get("sizes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let draw = args.get("draw").and_then(Value::as_bool).unwrap_or(false);
    let place = if draw { crc32fast::hash(context.key().as_bytes()) } else { context.index() };
    let size = sizes.get(place as usize % sizes.len().max(1)).and_then(Value::as_u64).unwrap_or(0);
    let size = usize::try_from(size).map_err(|_| "a size is too large")?;
    if !time.is_zero() {
        compute(context, None, Some(Instant::now() + time));
    }
    if size > 0 {
        context.alloc(size).map_err(text)?.fill(0);
    }
    Ok(())
}

/// Makes `size` bytes, each `fill` (0).
fn bytes(context: &mut NativeContext<'_>) -> Result<(), String> {
    let args = Args::of(context, &["size", "fill"])?;
    let size = args.bytes("size")?.ok_or("the argument `size` is missing")?;
    let fill = args.number("fill")?.unwrap_or(0);
    let fill = u8::try_from(fill).map_err(|_| format!("`fill` is a byte, 0 to 255, not {fill}"))?;
    let size = usize::try_from(size).map_err(|_| format!("`size` is too large: {size}"))?;
    // Zeroes are written too: pages never touched would cost no memory, and this is for measuring.
    context.alloc(size).map_err(text)?.fill(fill);
    Ok(())
}

/// Reads all of its inputs, sleeps `seconds` if given, and makes `size` bytes that follow from them and from
/// the task's key: nothing can be left out without the last result of a graph telling.
fn mix(context: &mut NativeContext<'_>) -> Result<(), String> {
    let args = Args::of(context, &["size", "seconds"])?;
    let size = args.bytes("size")?.ok_or("the argument `size` is missing")?;
    let size = usize::try_from(size).map_err(|_| format!("`size` is too large: {size}"))?;
    let mut sum = crc32fast::Hasher::new();
    sum.update(context.key().as_bytes());
    for input in context.inputs() {
        sum.update(&input.bytes().map_err(text)?);
    }
    if let Some(time) = args.seconds()? {
        context.sleep(time);
    }
    fill(context.alloc(size).map_err(text)?, u64::from(sum.finalize()));
    Ok(())
}

/// Bytes that no compression makes less of within a block, and that differ from block to block.
fn fill(bytes: &mut [u8], seed: u64) {
    const BLOCK: usize = 32 << 10;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut block: Vec<u8> =
        std::iter::repeat_with(|| random.u64(..).to_le_bytes()).take(BLOCK / 8).flatten().collect();
    for (n, piece) in (0u64..).zip(bytes.chunks_mut(BLOCK)) {
        block[..8].copy_from_slice(&(seed ^ n).to_le_bytes());
        piece.copy_from_slice(&block[..piece.len()]);
    }
}

/// Occupies `size` bytes that are no result, for a time of up to `seconds` that follows from the element's
/// index, and gives back the index.
fn transient(context: &mut NativeContext<'_>) -> Result<(), String> {
    let args = Args::of(context, &["size", "seconds"])?;
    let size = args.bytes("size")?.ok_or("the argument `size` is missing")?;
    let size = usize::try_from(size).map_err(|_| format!("`size` is too large: {size}"))?;
    let longest = args.seconds()?.unwrap_or(Duration::ZERO);
    let mut memory = vec![0u8; size];
    fill(&mut memory, u64::from(context.index()));
    context.sleep(longest.mul_f64(fastrand::Rng::with_seed(u64::from(context.index())).f64()));
    let sum = crc32fast::hash(std::hint::black_box(&memory).get(..64).unwrap_or_default());
    drop(memory);
    context.write(&sum.to_le_bytes()).map_err(text)
}

/// Occupies `size` bytes and never gives them back: for finding out what becomes of a process that leaks.
fn leak(context: &mut NativeContext<'_>) -> Result<(), String> {
    let args = Args::of(context, &["size"])?;
    let size = args.bytes("size")?.ok_or("the argument `size` is missing")?;
    let size = usize::try_from(size).map_err(|_| format!("`size` is too large: {size}"))?;
    // Written, for pages never touched would cost nothing.
    std::mem::forget(std::hint::black_box(vec![1u8; size]));
    Ok(())
}

/// All inputs, one after the other.
fn concat(context: &mut NativeContext<'_>) -> Result<(), String> {
    Args::of(context, &[])?;
    for input in context.inputs() {
        context.write(&input.bytes().map_err(text)?).map_err(text)?;
    }
    Ok(())
}

/// CRC-32 of all inputs, one after the other: eight hexadecimal digits and a newline.
fn checksum(context: &mut NativeContext<'_>) -> Result<(), String> {
    Args::of(context, &[])?;
    let mut sum = crc32fast::Hasher::new();
    for input in context.inputs() {
        sum.update(&input.bytes().map_err(text)?);
    }
    context.write(format!("{:08x}\n", sum.finalize()).as_bytes()).map_err(text)
}

/// Fails with `message`; only in the first `times` attempts if that is given.
fn fail(context: &mut NativeContext<'_>) -> Result<(), String> {
    let args = Args::of(context, &["message", "times"])?;
    if args.number("times")?.is_some_and(|times| u64::from(context.attempt().n) > times) {
        return Ok(());
    }
    let message = args.0.get("message").and_then(Value::as_str);
    Err(message.unwrap_or("failed, as its function is meant to").to_string())
}

fn text(error: io::Error) -> String {
    error.to_string()
}

/// The arguments of a builtin function: a table or nothing.
struct Args(Map<String, Value>);

impl Args {
    fn of(context: &NativeContext<'_>, known: &[&str]) -> Result<Args, String> {
        let args = match context.args() {
            Value::Null => Map::new(),
            Value::Object(args) => args.clone(),
            other => return Err(format!("`args` must be a table, not {other}")),
        };
        match args.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(format!("unknown argument `{name}`; known: {}", known.join(", "))),
            None => Ok(Args(args)),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let number = value.as_u64().ok_or_else(|| format!("`{name}` must be a whole number, not {value}"))?;
        Ok(Some(number))
    }

    fn seconds(&self) -> Result<Option<Duration>, String> {
        let Some(value) = self.0.get("seconds") else { return Ok(None) };
        let time = value.as_f64().and_then(|s| Duration::try_from_secs_f64(s).ok());
        time.map(Some).ok_or_else(|| format!("`seconds` must be a number that is not negative, not {value}"))
    }

    /// A number of bytes, or a text with a unit.
    fn bytes(&self, name: &str) -> Result<Option<u64>, String> {
        match self.0.get(name) {
            Some(Value::String(size)) => {
                units::parse_bytes(size).map(Some).map_err(|error| format!("`{name}`: {error}"))
            }
            _ => self.number(name),
        }
    }
}
