//! What an executor has been sent. Owns what of that it need not keep: what no run needs, and batches that
//! were not used for long.

use super::calls::{Call, Live};
use super::messages::{Load, tag};
use crate::worker::executor::processes::channel::Channel;
use bytes::Bytes;
use rustc_hash::FxHashSet;
use serde_bytes::ByteBuf;
use std::collections::VecDeque;
use std::io;

/// Batches that an executor keeps at most, and their bytes: tasks of a batch mostly come in a row.
const BATCHES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 32 << 20;

/// Ids of functions and batches.
#[derive(Debug)]
pub(super) struct Loaded {
    all: FxHashSet<Vec<u8>>,
    /// Of these, the batches and their sizes; the one that was used last is the last one.
    batches: VecDeque<(Vec<u8>, usize)>,
    /// The state of `Live` that this agrees with.
    changes: u64,
}

impl Loaded {
    /// Nothing yet.
    pub(super) fn new(live: &Live) -> Loaded {
        Loaded { all: FxHashSet::default(), batches: VecDeque::new(), changes: live.changes() }
    }

    /// Sends what a call needs and is not there.
    pub(super) fn send(&mut self, channel: &Channel, call: &Call) -> io::Result<()> {
        let (run, batch) = (&call.run, &call.batch);
        for (id, bytes) in &run.functions {
            if !self.all.contains(id) {
                load(channel, "function", id, bytes)?;
                self.all.insert(id.clone());
            }
        }
        if self.use_batch(&batch.id, batch.bytes.len()) {
            load(channel, "batch", &batch.id, &batch.bytes)?;
        }
        Ok(())
    }

    /// Notes that a batch is used; whether it is not there yet.
    fn use_batch(&mut self, id: &[u8], bytes: usize) -> bool {
        if self.batches.back().is_none_or(|(last, _)| last != id) {
            self.batches.retain(|(other, _)| other != id);
            self.batches.push_back((id.to_vec(), bytes));
        }
        self.all.insert(id.to_vec())
    }

    /// Forgets what it need not keep, and returns that.
    pub(super) fn forget(&mut self, live: &Live) -> Vec<Vec<u8>> {
        let changes = live.changes();
        let mut stale = Vec::new();
        if self.changes != changes {
            self.changes = changes;
            stale = live.stale(self.all.iter());
            self.batches.retain(|(id, _)| !stale.contains(id));
        }
        let mut bytes: usize = self.batches.iter().map(|(_, bytes)| bytes).sum();
        while (bytes > BATCH_BYTES_MAX && self.batches.len() > 1) || self.batches.len() > BATCHES_MAX {
            let Some((id, size)) = self.batches.pop_front() else { break };
            bytes -= size;
            stale.push(id);
        }
        stale.iter().for_each(|id| {
            self.all.remove(id);
        });
        stale
    }
}

fn load(channel: &Channel, kind: &'static str, id: &[u8], bytes: &Bytes) -> io::Result<()> {
    let load = Load { kind, id: ByteBuf::from(id) };
    channel.send(tag::LOAD, &load, std::slice::from_ref(bytes), &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_were_not_used_for_long_go() {
        let live = Live::default();
        let mut loaded = Loaded::new(&live);
        let id = |n: usize| n.to_le_bytes().to_vec();
        for n in 0..BATCHES_MAX {
            assert!(loaded.use_batch(&id(n), 1));
        }
        assert!(!loaded.use_batch(&id(0), 1) && loaded.forget(&live).is_empty());
        assert!(loaded.use_batch(&id(BATCHES_MAX), 1));
        assert_eq!(loaded.forget(&live), [id(1)]);
        assert!(loaded.use_batch(&id(1), BATCH_BYTES_MAX), "it has to be sent again");
        assert_eq!(loaded.forget(&live).len(), BATCHES_MAX, "the one in use stays");
        assert!(!loaded.use_batch(&id(1), BATCH_BYTES_MAX));
    }
}
