//! What users write, and the layers it becomes: graph files, their checks, element lists, edge patterns,
//! placeholders. `layer` is pure and shared with the cores; reading files and expanding globs happens in the
//! client only. Owns no execution and no scheduling state.

pub mod items;
pub mod layer;
pub mod spec;
