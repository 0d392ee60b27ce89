//! What users write, and the layers it becomes: graph files, their checks, element lists, edge patterns,
//! placeholders. `layer` is pure and shared with the cores; reading files and expanding globs happens in the
//! client only. Owns no execution and no scheduling state.

mod build;
mod check;
pub mod command;
mod decode;
mod decode_task;
mod decode_wiring;
pub mod diagnostic;
mod expand;
mod families;
pub mod file;
pub mod items;
mod key;
pub mod layer;
mod look;
mod names;
mod order;
mod outputs;
mod packed;
mod placeholder;
pub mod proof;
mod raw;
pub mod sequence;
pub mod single;
mod source;
pub mod spec;
pub mod split;
pub mod template;
mod validate;
mod wire;

pub use build::{Options, Origin};
pub use check::{check_json, check_report, expansion};
pub use families::{By, Family, Graph, GraphOutput};
pub use key::key_text;
pub use look::Look;
pub use names::FamilyNames;
pub use outputs::stays_inside;
pub use packed::Packed;

/// The most elements that all families of a graph have together: indices and their sums stay far from the end
/// of `u32`.
pub const MAX_ELEMENTS: u32 = 1 << 30;

/// Whether a text can be a name in a graph: letters, digits, `_` and `-` of ASCII, not beginning with `-`.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    !text.is_empty() && text.len() <= 128 && !text.starts_with('-') && text.bytes().all(plain)
}

/// The name that was probably meant.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (strsim::damerau_levenshtein(name, k), k))
        .filter(|(distance, k)| *distance <= 1.max(k.len().max(name.len()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests;
