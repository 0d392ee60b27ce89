//! The values of a family's elements: what `{item}` stands for. Owns the lists and how the n-th value is
//! found; the client makes them, the scheduler's sessions look single ones up.

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

impl Items {
    /// The value of element `i`; `Item::None` where there is none. `Same` has to be resolved before
    /// (`Graph::item` does).
    pub fn item(&self, i: u32) -> Item {
        match self {
            Items::Range { start, step } => {
                let value = step.checked_mul(i64::from(i)).and_then(|d| start.checked_add(d));
                value.map_or(Item::None, |v| Item::Text(v.to_string()))
            }
            Items::Values(values) => values.get(i as usize).map_or(Item::None, |v| Item::Text(v.clone())),
            Items::Matrix(axes) => matrix_item(axes, i),
            Items::Blocks(blocks) => match blocks.get(i as usize) {
                Some(b) => Item::Block(b.path.clone(), b.offset, b.len),
                None => Item::None,
            },
            Items::Single | Items::Same(_) | Items::Index => Item::None,
        }
    }

    /// How many elements the list has; `None` where it has no end of its own (ranges, indices, `Same`).
    pub fn len(&self) -> Option<u64> {
        match self {
            Items::Single => Some(1),
            Items::Values(values) => Some(values.len() as u64),
            Items::Matrix(axes) => {
                Some(axes.iter().fold(1u64, |n, (_, values)| n.saturating_mul(values.len() as u64)))
            }
            Items::Blocks(blocks) => Some(blocks.len() as u64),
            Items::Range { .. } | Items::Same(_) | Items::Index => None,
        }
    }

    /// Whether it is a list without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

fn matrix_item(axes: &[(String, Vec<String>)], i: u32) -> Item {
    let mut rest = u64::from(i);
    let mut fields = Vec::with_capacity(axes.len());
    for (name, values) in axes.iter().rev() {
        let n = values.len() as u64;
        if n == 0 {
            return Item::None;
        }
        fields.push((name.clone(), values[(rest % n) as usize].clone()));
        rest /= n;
    }
    if rest > 0 {
        return Item::None;
    }
    fields.reverse();
    Item::Fields(fields)
}

impl Item {
    /// The value as text, as `HPCDAG_ITEM` has it: fields as `a=1,b=2`, a piece of a file as its file's path.
    pub fn text(&self) -> Option<String> {
        match self {
            Item::None => None,
            Item::Text(text) => Some(text.clone()),
            Item::Fields(fields) => {
                let pairs: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
                Some(pairs.join(","))
            }
            Item::Block(path, ..) => Some(path.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_axis_varies_fastest() {
        let axes = [("re", vec!["100", "200"]), ("dt", vec!["a", "b", "c"])];
        let axes = axes.map(|(n, v)| (n.to_string(), v.into_iter().map(String::from).collect())).to_vec();
        let items = Items::Matrix(axes);
        let texts: Vec<_> = (0..7).map(|i| items.item(i).text().unwrap_or("-".into())).collect();
        let expected =
            ["re=100,dt=a", "re=100,dt=b", "re=100,dt=c", "re=200,dt=a", "re=200,dt=b", "re=200,dt=c", "-"];
        assert_eq!(texts, expected);
        assert_eq!(items.len(), Some(6));
    }

    #[test]
    fn a_range_that_overflows_has_no_value() {
        let items = Items::Range { start: i64::MAX - 1, step: 2 };
        assert_eq!(items.item(0), Item::Text((i64::MAX - 1).to_string()));
        assert_eq!(items.item(1), Item::None);
    }
}
