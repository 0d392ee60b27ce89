//! Results of tasks that an earlier run has done: nothing for those that nobody needs, files where they are
//! for the others. Owns where these files are looked for; that they are right was proved by whoever
//! submitted the graph.

use super::prepare::Assignment;
use super::store::data::{Data, TaskResult};
use crate::base::error::{Error, Kind, Result};
use crate::graph::spec::Kept;
use crate::graph::template::{Elements, Mode, Names, Plain, Template};
use bytes::Bytes;

/// The result of a task that need not run; `None` for one that does.
///
/// # Errors
/// `File` when a file is not there any more.
pub(super) fn result(assignment: &Assignment) -> Option<Result<TaskResult>> {
    let kept = assignment.family.spec().kept.as_ref()?;
    let is_in = |ranges: &[(u32, u32)]| {
        let at = ranges.partition_point(|(_, end)| *end <= assignment.index);
        ranges.get(at).is_some_and(|(first, _)| *first <= assignment.index)
    };
    if let Ok(at) = kept.stored.binary_search_by_key(&assignment.index, |(element, _)| *element) {
        let part = |(name, path): &(String, std::path::PathBuf)| match Data::in_place(path) {
            Ok(data) => Ok((name.clone(), data)),
            Err(e) => Err(Error::file("cannot read from the checkpoint", path, &e)),
        };
        return Some(
            kept.stored[at]
                .1
                .iter()
                .map(part)
                .collect::<Result<_>>()
                .map(|parts| TaskResult { parts, pinned: None }),
        );
    }
    if is_in(&kept.skip) {
        let parts = [String::new()].into_iter().chain(names(assignment));
        let parts = parts.map(|name| (name, Data::Heap(Bytes::new()))).collect();
        return Some(Ok(TaskResult { parts, pinned: None }));
    }
    is_in(&kept.load).then(|| load(assignment, kept))
}

fn names(assignment: &Assignment) -> impl Iterator<Item = String> {
    assignment.family.spec().outputs.iter().map(|o| o.name.clone())
}

fn load(assignment: &Assignment, kept: &Kept) -> Result<TaskResult> {
    let spec = assignment.family.spec();
    let known = Names {
        inputs: Vec::new(),
        outputs: Vec::new(),
        params: spec.params.clone(),
        elements: Elements::Unknown,
    };
    let context = Plain { item: &assignment.item, index: assignment.index, key: &assignment.key };
    let one = |name: String| {
        let entry = kept.files.iter().find(|(part, ..)| *part == name);
        let Some((_, path, skip_empty)) = entry else {
            return Err(Error::new(Kind::Internal, format!("no file holds {name:?} of {}", assignment.key)));
        };
        let template = Template::parse(path, &known, Mode::Path)
            .map_err(|fault| Error::new(Kind::Graph, fault.message).hint(fault.hint))?;
        let path = spec.base_dir.join(template.render(&context)?);
        match Data::in_place(&path) {
            Ok(data) => Ok((name, data)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && *skip_empty => {
                Ok((name, Data::Heap(Bytes::new())))
            }
            Err(e) => Err(Error::file("cannot read the output of an earlier run,", &path, &e)),
        }
    };
    let parts = [String::new()].into_iter().chain(names(assignment)).map(one).collect::<Result<_>>()?;
    Ok(TaskResult { parts, pinned: None })
}
