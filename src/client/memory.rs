//! Outputs kept in memory, for programs that embed hpcdag. Owns no limit: whoever uses it knows what comes.

use super::outputs::{Destination, Output, Receive};
use crate::base::error::Result;
use crate::protocol::messages::peer::PartHeader;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The parts of an output: name (empty for stdout) and bytes.
pub type Parts = Vec<(String, Vec<u8>)>;

/// Keeps outputs in memory by their task's key. Clones share what they keep.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    kept: Arc<Mutex<BTreeMap<String, Parts>>>,
}

impl Memory {
    /// Takes out what there is.
    pub fn take(&self) -> BTreeMap<String, Parts> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The stdout, or a native function's output, of a task.
    pub fn stdout(&self, key: &str) -> Option<Vec<u8>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = kept.get(key)?;
        parts.iter().find(|(name, _)| name.is_empty()).map(|(_, bytes)| bytes.clone())
    }
}

impl Destination for Memory {
    fn wants(&self, _: &Output) -> bool {
        true
    }

    fn receiver(&self) -> Box<dyn Receive> {
        Box::new(Gather { memory: self.clone(), key: String::new(), parts: Vec::new() })
    }
}

struct Gather {
    memory: Memory,
    key: String,
    parts: Parts,
}

impl Receive for Gather {
    fn begin(&mut self, output: &Output, parts: &[PartHeader]) -> Result<()> {
        self.key.clone_from(&output.key);
        self.parts = parts.iter().map(|p| (p.name.clone(), Vec::new())).collect();
        Ok(())
    }

    fn bytes(&mut self, part: usize, bytes: &[u8]) -> Result<()> {
        self.parts[part].1.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let mut kept = self.memory.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(std::mem::take(&mut self.key), std::mem::take(&mut self.parts));
        Ok(())
    }
}
