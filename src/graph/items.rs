//! The values of a family's elements: what `{item}` stands for. Owns the lists and how the n-th value is found;
//! the client makes them, the scheduler's sessions look single ones up.

use crate::base::ids::FamilyIx;
use serde::{Deserialize, Serialize};

/// The values of a family's elements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Items {
    /// A single task, no element.
    Single,
    /// The elements are numbers: `start + i * step`.
    Range {
        /// First value.
        start: i64,
        /// Difference of neighbours.
        step: i64,
    },
    /// Listed values: glob matches, lines, literals.
    Values(Vec<String>),
    /// All combinations of named values, the last axis varies fastest.
    Matrix(Vec<(String, Vec<String>)>),
    /// Pieces of files.
    Blocks(Vec<Block>),
    /// The same as those of an earlier family (`same-as`, or an elementwise edge without `for-each`).
    Same(FamilyIx),
    /// No values of their own, only indices (groups, trees, windows).
    Index,
}

/// A piece of a file, cut where the family's `at` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The file.
    pub path: String,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// One element's value, as it travels to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// No value.
    None,
    /// A plain value.
    Text(String),
    /// Named values (matrix).
    Fields(Vec<(String, String)>),
    /// A piece of a file: path, offset, length. `{item}` is the path of a file that holds the piece.
    Block(String, u64, u64),
}
