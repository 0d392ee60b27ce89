//! The graph as the client sends it: families in topological order, what is written where, what runs at the
//! end. Owns the data and the arithmetic over it (sizes, element values); `key` names elements, `validate`
//! checks graphs from the wire, `build` makes them out of files.

use super::items::{Item, Items};
use super::layer::{Layer, Pattern, Shape, Size};
use super::look::Look;
use super::spec::{Action, TaskSpec};
use super::template::Names;
use crate::base::ids::FamilyIx;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A graph of families. What follows from patterns is not stored: a million elements are one small record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// What people call it: the graph file's name without extension, or the command's.
    pub name: String,
    /// The families; every edge points to an earlier one.
    pub families: Vec<Family>,
    /// Which results are written to files at the client's side of the world.
    pub outputs: Vec<GraphOutput>,
    /// Run by the client once every task has succeeded.
    pub on_success: Option<Action>,
    /// Run by the client once the graph has ended with a failed task.
    pub on_failure: Option<Action>,
    /// The parameters it was made with, as text, for reports; the specs carry their own copy.
    pub params: BTreeMap<String, String>,
}

/// One family, or a single task (a family of one without elements).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// What scheduling needs: size, edges, what an element occupies.
    pub layer: Layer,
    /// What an element executes.
    pub spec: TaskSpec,
    /// The elements' values.
    pub items: Items,
}

/// An entry of `[output]`: results that end in files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GraphOutput {
    /// Whose results.
    pub family: FamilyIx,
    /// Which named output; stdout if `None`.
    pub part: Option<String>,
    /// Where to (template), relative to the spec's `base_dir`.
    pub path: String,
    /// Who writes; the mode of submission decides if `None`.
    pub by: Option<By>,
    /// Whether empty results leave no file.
    pub skip_empty: bool,
}

/// Who writes an output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The submitting client fetches the result and writes it.
    Client,
    /// The worker that made it writes it (a shared file system).
    Worker,
}

impl Family {
    /// The edge whose pattern gives this family its size: the first with data that has one.
    pub fn shaping(&self) -> Option<usize> {
        let shapes = |p: &Pattern| !matches!(p, Pattern::All | Pattern::Explicit(_));
        self.layer.edges.iter().position(|e| e.data && shapes(&e.pattern))
    }

    /// The tree's fan-in, if the family is a tree.
    pub fn fan_in(&self) -> Option<u32> {
        self.layer.edges.iter().find_map(|e| match e.pattern {
            Pattern::Tree { fan_in } if e.data => Some(fan_in),
            _ => None,
        })
    }

    /// The shape for a total known now or later: all elements, and of a tree only the last visible.
    pub fn shape_of(&self, total: u32) -> Shape {
        let first_export = if self.fan_in().is_some() { total.saturating_sub(1) } else { 0 };
        Shape { total, first_export }
    }

    /// The shape, if known at submission.
    pub fn shape(&self) -> Option<Shape> {
        match self.layer.size {
            Size::Fixed(total) => Some(self.shape_of(total)),
            Size::Follows => None,
        }
    }
}

impl Graph {
    /// The shape of each family; `None` where it follows at run time.
    pub fn shapes(&self) -> Vec<Option<Shape>> {
        self.families.iter().map(Family::shape).collect()
    }

    /// The number of elements of each family; `None` where it follows at run time.
    pub fn expanded_sizes(&self) -> Vec<Option<u64>> {
        self.shapes().into_iter().map(|s| s.map(|s| u64::from(s.total))).collect()
    }

    /// The family of that name.
    pub fn find(&self, name: &str) -> Option<FamilyIx> {
        let at = self.families.iter().position(|f| f.spec.name == name)?;
        Some(FamilyIx(at as u32))
    }

    /// The items that stand behind a family: its own, or those at the end of its chain of `Same`.
    pub fn items(&self, family: FamilyIx) -> &Items {
        self.items_of(family)
    }

    /// The value of an element (of a visible one, in trees none has any); `Item::None` beyond the end.
    pub fn item(&self, family: FamilyIx, element: u32) -> Item {
        self.items(family).item(element)
    }
}

impl Graph {
    /// The names that the templates of a family may use.
    pub fn names(&self, family: FamilyIx) -> Names {
        self.families.get(family.index()).map_or_else(Names::default, |f| self.names_for(family, f))
    }
}
