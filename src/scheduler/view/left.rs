//! What workers have left behind that are gone: the ends of their logs, and what their last tasks have
//! printed. Owns these texts and their bounds.

use crate::base::ids::{Incarnation, TaskRef, WorkerId};
use crate::protocol::messages::look::{LastWords, Said};
use std::collections::VecDeque;

/// Gone workers that are known.
const GONE_MAX: usize = 1000;

/// Of these, those whose last words are kept.
const WORDS_MAX: usize = 200;

/// Bytes of all last words together.
const BYTES_MAX: usize = 32 << 20;

/// Bytes of one worker's; it should not send more.
const WORKER_BYTES_MAX: usize = 2 << 20;

/// A worker, and what it has left.
#[derive(Debug)]
struct Left {
    worker: WorkerId,
    incarnation: Incarnation,
    name: String,
    words: Option<(LastWords, usize)>,
    /// It has said them.
    heard: bool,
}

/// All of them, in the order in which they were heard of.
#[derive(Debug, Default)]
pub(super) struct Leavings {
    all: VecDeque<Left>,
    bytes: usize,
    words: usize,
}

fn size(words: &LastWords) -> usize {
    let said = |said: &Said| said.parts.iter().map(|part| part.text.len() + 64).sum::<usize>() + 64;
    words.log.len() + words.tasks.iter().map(said).sum::<usize>()
}

impl Leavings {
    /// A worker has gone, or will have.
    pub(super) fn meet(&mut self, worker: WorkerId, incarnation: Incarnation, name: &str) {
        if self.all.iter().any(|left| left.worker == worker) {
            return;
        }
        self.all.push_back(Left { worker, incarnation, name: name.to_owned(), words: None, heard: false });
        if self.all.len() > GONE_MAX {
            self.drop_words(0);
            self.all.pop_front();
        }
    }

    /// What one has left. Of workers that this scheduler has not known nothing is kept. Whether it is one
    /// that is known and has said nothing before.
    pub(super) fn keep(&mut self, words: LastWords) -> bool {
        let bytes = size(&words);
        let Some(at) = self.all.iter().rposition(|left| left.incarnation == words.incarnation) else {
            return false;
        };
        let is_first = !std::mem::replace(&mut self.all[at].heard, true);
        if bytes > WORKER_BYTES_MAX {
            return is_first;
        }
        self.drop_words(at);
        self.all[at].words = Some((words, bytes));
        self.bytes += bytes;
        self.words += 1;
        let mut oldest = 0;
        while self.words > WORDS_MAX || self.bytes > BYTES_MAX {
            self.drop_words(oldest);
            oldest += 1;
        }
        is_first
    }

    fn drop_words(&mut self, at: usize) {
        if let Some((_, bytes)) = self.all[at].words.take() {
            self.bytes -= bytes;
            self.words -= 1;
        }
    }

    /// The last worker of this name, and what it has left.
    pub(super) fn by_name(&self, name: &str) -> Option<Option<&LastWords>> {
        let left = self.all.iter().rev().find(|left| left.name == name)?;
        Some(left.words.as_ref().map(|(words, _)| words))
    }

    /// What a task has printed on a worker that is gone: the worker's name, and that.
    pub(super) fn of_task(&self, worker: WorkerId, task: TaskRef) -> Option<(&str, Option<&Said>)> {
        let left = self.all.iter().rev().find(|left| left.worker == worker)?;
        let words = left.words.as_ref().map(|(words, _)| words);
        let said = words.and_then(|words| words.tasks.iter().find(|said| said.task == task));
        Some((&left.name, said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::look::PrintedPart;

    fn words(n: u32, bytes: usize) -> LastWords {
        let part = PrintedPart { name: "stderr".into(), text: "x".repeat(bytes), left_out: 0 };
        let task = TaskRef { index: n, ..TaskRef::default() };
        let tasks = vec![Said { task, attempt: 1, parts: vec![part] }];
        let (incarnation, profile) = (Incarnation::from_u128(n.into()), String::new());
        LastWords { incarnation, log: format!("log {n}"), tasks, profile }
    }

    #[test]
    fn only_the_latest_are_kept_and_no_stranger() {
        let mut leavings = Leavings::default();
        for n in 0..1500 {
            leavings.meet(WorkerId(n), Incarnation::from_u128(n.into()), &format!("w{n}"));
            assert!(leavings.keep(words(n, 1 << 20)) && !leavings.keep(words(n, 1 << 20)));
        }
        assert!(!leavings.keep(words(7777, 1)));
        assert!(leavings.bytes <= BYTES_MAX && leavings.words >= 30 && leavings.all.len() == GONE_MAX);
        assert!(leavings.by_name("w0").is_none() && leavings.by_name("w600").unwrap().is_none());
        assert_eq!(leavings.by_name("w1499").unwrap().unwrap().log, "log 1499");
        let task = TaskRef { index: 1499, ..TaskRef::default() };
        assert_eq!(leavings.of_task(WorkerId(1499), task).unwrap().1.unwrap().parts[0].text.len(), 1 << 20);
        for n in 2000..2300 {
            leavings.meet(WorkerId(n), Incarnation::from_u128(n.into()), &format!("w{n}"));
            leavings.keep(words(n, 10));
        }
        assert_eq!(leavings.words, WORDS_MAX);
        let kept: usize = leavings.all.iter().filter_map(|left| Some(left.words.as_ref()?.1)).sum();
        assert_eq!(leavings.bytes, kept);
    }
}
