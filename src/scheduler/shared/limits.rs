//! How much may be shared, and which verbs go with which kinds. Owns the words with which all else is
//! refused.

use crate::protocol::messages::share::{Kind, Share, Verb};

/// Requests of a session that wait, or whose answers it has not heard.
pub(super) const OPEN_MAX: usize = 1024;

/// The longest name and the longest owner, bytes.
const NAME_BYTES_MAX: usize = 1000;

/// The largest value, bytes. The scheduler is no store: large values belong on workers.
pub(super) const VALUE_BYTES_MAX: usize = 64 << 10;

/// All values, bytes.
const ALL_BYTES_MAX: u64 = 256 << 20;

/// Results that one value may refer to.
const TASKS_MAX: usize = 200_000;

/// Everything that has a name.
const THINGS_MAX: usize = 100_000;

/// Published results; all names go into one answer.
pub(super) const DATASETS_MAX: usize = 10_000;

pub(super) fn too_many_requests() -> String {
    format!("this session has {OPEN_MAX} requests without an answer")
}

/// The word for people.
pub(super) fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Lock => "lock",
        Kind::Semaphore => "semaphore",
        Kind::Event => "event",
        Kind::Variable => "variable",
        Kind::Queue => "queue",
        Kind::Dataset => "dataset",
        Kind::Session => "session",
    }
}

/// Whether a request makes sense and there is room for it; the answer tells whether it may have to wait.
pub(super) fn check(share: &Share, things: usize, datasets: usize, bytes: u64) -> Result<bool, String> {
    use Kind::*;
    let what = word(share.kind);
    let (known, waits) = match (share.kind, share.verb) {
        (Lock | Semaphore, Verb::Acquire) | (Event, Verb::Wait) => (true, true),
        (Variable, Verb::Get) | (Queue, Verb::Get | Verb::Put) => (true, true),
        (Lock | Semaphore, Verb::Release) | (Event, Verb::Set | Verb::Clear) => (true, false),
        (Variable, Verb::Set | Verb::Delete) | (Queue, Verb::Delete) => (true, false),
        (Dataset, Verb::Put | Verb::Set | Verb::Get | Verb::Delete | Verb::List) => (true, false),
        (Session, Verb::Bind | Verb::Withdraw | Verb::Heard) => (true, false),
        (Lock | Semaphore | Event | Variable | Queue, Verb::Count) => (true, false),
        _ => (false, false),
    };
    if !known {
        return Err(format!("a {what} has no {:?}", share.verb));
    }
    if share.name.len() > NAME_BYTES_MAX || share.owner.len() > NAME_BYTES_MAX {
        return Err(format!("the name of a {what} has at most {NAME_BYTES_MAX} bytes"));
    }
    if share.kind == Semaphore && share.limit == Some(0) {
        return Err("a semaphore must have at least one lease".into());
    }
    let is_value = matches!(share.verb, Verb::Set | Verb::Put) && share.kind != Event;
    if !is_value && (!share.body.is_empty() || !share.tasks.is_empty()) {
        return Err(format!("{:?} of a {what} takes no value", share.verb));
    }
    if share.body.len() > VALUE_BYTES_MAX {
        return Err(format!(
            "a value of {} bytes is larger than {} KiB: put it on a worker (`client.scatter(value)`), and \
             share the future",
            share.body.len(),
            VALUE_BYTES_MAX >> 10
        ));
    }
    if share.tasks.len() > TASKS_MAX {
        return Err(format!("a value refers to at most {TASKS_MAX} results, not {}", share.tasks.len()));
    }
    if is_value && bytes.saturating_add(share.body.len() as u64) > ALL_BYTES_MAX {
        return Err(format!("all shared values together have {} MiB already", ALL_BYTES_MAX >> 20));
    }
    if things >= THINGS_MAX && (is_value || waits || share.verb == Verb::Set) {
        return Err(format!("{THINGS_MAX} names are in use already"));
    }
    if share.kind == Dataset && is_value && datasets >= DATASETS_MAX {
        return Err(format!("{DATASETS_MAX} datasets are published already"));
    }
    Ok(waits)
}
