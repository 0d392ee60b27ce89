//! What is asked about the families of a graph, whether it is kept as it was built (`Graph`) or packed
//! (`Packed`). Owns the questions that both answer the same way.

use super::families::{Family, Graph, GraphOutput};
use super::items::{Item, Items};
use super::spec::Output;
use super::template::{Elements, Names};
use crate::base::ids::FamilyIx;
use std::borrow::Cow;

/// A graph to look things up in.
pub trait Look {
    /// How many families there are.
    fn count(&self) -> usize;

    /// A family; `None` beyond the end, or if it cannot be read.
    fn family(&self, family: FamilyIx) -> Option<Cow<'_, Family>>;

    /// A family's name.
    fn name_of(&self, family: FamilyIx) -> Option<&str>;

    /// A family's named outputs.
    fn outputs_of(&self, family: FamilyIx) -> Option<&[Output]>;

    /// A family's own items, possibly `Same`.
    fn own_items(&self, family: FamilyIx) -> Option<&Items>;

    /// What becomes of results.
    fn graph_outputs(&self) -> &[GraphOutput];

    /// All names in order.
    fn all_names(&self) -> impl Iterator<Item = &str>;

    /// The items that stand behind a family: its own, or those at the end of its chain of `Same`.
    fn items_of(&self, family: FamilyIx) -> &Items {
        let mut at = family;
        loop {
            match self.own_items(at) {
                Some(Items::Same(earlier)) if earlier.0 < at.0 => at = *earlier,
                Some(items) => return items,
                None => return &Items::Index,
            }
        }
    }

    /// The value of an element; `Item::None` beyond the end.
    fn item_of(&self, family: FamilyIx, element: u32) -> Item {
        self.items_of(family).item(element)
    }

    /// The names that the templates of a family may use.
    fn names_for(&self, ix: FamilyIx, family: &Family) -> Names {
        let data = family.layer.edges.iter().filter(|e| e.data);
        let outputs = |outputs: &[Output]| outputs.iter().map(|o| o.name.clone()).collect();
        let mut producers = data.map(|e| self.outputs_of(e.producer).map(outputs));
        let inputs = family.spec.inputs.iter();
        Names {
            inputs: inputs.map(|input| (input.producer.clone(), producers.next().flatten())).collect(),
            outputs: outputs(&family.spec.outputs),
            params: family.spec.params.clone(),
            elements: match self.items_of(ix) {
                Items::Single | Items::Index | Items::Same(_) => Elements::None,
                Items::Matrix(axes) => Elements::Fields(axes.iter().map(|(name, _)| name.clone()).collect()),
                Items::Range { .. } | Items::Values(_) | Items::Blocks(_) => Elements::Plain,
            },
        }
    }
}

impl Look for Graph {
    fn count(&self) -> usize {
        self.families.len()
    }

    fn family(&self, family: FamilyIx) -> Option<Cow<'_, Family>> {
        self.families.get(family.index()).map(Cow::Borrowed)
    }

    fn name_of(&self, family: FamilyIx) -> Option<&str> {
        self.families.get(family.index()).map(|f| f.spec.name.as_str())
    }

    fn outputs_of(&self, family: FamilyIx) -> Option<&[Output]> {
        self.families.get(family.index()).map(|f| f.spec.outputs.as_slice())
    }

    fn own_items(&self, family: FamilyIx) -> Option<&Items> {
        self.families.get(family.index()).map(|f| &f.items)
    }

    fn graph_outputs(&self) -> &[GraphOutput] {
        &self.outputs
    }

    fn all_names(&self) -> impl Iterator<Item = &str> {
        self.families.iter().map(|f| f.spec.name.as_str())
    }
}
