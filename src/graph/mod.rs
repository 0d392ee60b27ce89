//! What users write, and the layers it becomes: graph files, their checks, element lists, edge patterns,
//! placeholders. `layer` is pure and shared with the cores; reading files and expanding globs happens in the
//! client only. Owns no execution and no scheduling state.

pub mod command;
mod families;
pub mod items;
mod key;
pub mod layer;
pub mod spec;
pub mod template;

pub use families::{By, Family, Graph, GraphOutput};

/// The name that was probably meant.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (strsim::damerau_levenshtein(name, k), k))
        .filter(|(distance, k)| *distance <= 1.max(k.len().max(name.len()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}
