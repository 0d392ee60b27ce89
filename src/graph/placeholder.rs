//! Which names in braces are placeholders and what each stands for. Owns the list of `docs/graph-file.md`,
//! "Placeholders"; `template` finds the braces and renders.

use super::template::{Elements, Mode, Names, PATH_PARTS};

/// What a placeholder stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hole {
    /// `{item}`, `{item.FIELD}`, `{item.stem}`, `{item.FIELD.stem}`
    Item {
        /// Which value of a matrix.
        field: Option<String>,
        /// Which part of a path.
        part: Option<PathPart>,
    },
    /// `{index}`
    Index,
    /// `{key}`
    Key,
    /// `{in.NAME}` and `{in.NAME.OUTPUT}`: position among the inputs.
    Input { input: usize, output: Option<String> },
    /// `{inputs...}`
    Inputs,
    /// `{inputs.list}` and `{inputs.list0}`
    List { nul: bool },
    /// `{out.NAME}`: position among the outputs.
    Output(usize),
    /// `{mpirun}`
    Launcher,
    /// `{NAME}` of a parameter: its value.
    Param(String),
}

/// A part of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathPart {
    /// The last component.
    Name,
    /// That without its last extension.
    Stem,
    /// The last extension, without the dot.
    Ext,
    /// Everything before the last component.
    Dir,
}

/// The inside of the braces if it looks like a name; `text` begins after the opening one.
pub fn word(text: &str) -> Option<&str> {
    let end = text.bytes().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')))?;
    (end > 0 && text.as_bytes()[end] == b'}').then(|| &text[..end])
}

/// The inside of double braces.
pub fn escaped(text: &str) -> Option<&str> {
    let inside = word(text.strip_prefix("{{")?)?;
    text[inside.len() + 3..].starts_with('}').then_some(inside)
}

/// A placeholder, nothing, or what is wrong and what was expected.
pub type Classified = Result<Option<Hole>, (String, String)>;

/// What a name in braces stands for; `None` where the braces are the command's own.
pub fn classify(inside: &str, names: &Names, mode: Mode) -> Classified {
    match inside {
        "index" => return Ok(Some(Hole::Index)),
        "key" => return Ok(Some(Hole::Key)),
        "inputs..." => return Ok(Some(Hole::Inputs)),
        "inputs.list" => return Ok(Some(Hole::List { nul: false })),
        "inputs.list0" => return Ok(Some(Hole::List { nul: true })),
        "mpirun" => return Ok(Some(Hole::Launcher)),
        "item" => return item_hole("", names),
        _ => {}
    }
    if let Some(value) = names.params.get(inside) {
        return Ok(Some(Hole::Param(value.clone())));
    }
    match inside.split_once('.') {
        Some(("item", rest)) => item_hole(rest, names),
        Some(("in", rest)) => input_hole(rest, names),
        Some(("out", name)) => match names.outputs.iter().position(|o| o == name) {
            Some(at) => Ok(Some(Hole::Output(at))),
            None => Err(unknown("output", name, names.outputs.iter().map(String::as_str))),
        },
        _ if mode == Mode::Path => {
            let known = names.params.keys().map(String::as_str).chain(["item", "index", "key"]);
            Err(unknown("placeholder", inside, known))
        }
        _ => Ok(None),
    }
}

fn item_hole(rest: &str, names: &Names) -> Classified {
    if names.elements == Elements::None {
        return Err((
            "there is no item here: the task has no list of elements".to_string(),
            "{index} and {key} always exist; a list comes with `for-each`".to_string(),
        ));
    }
    let path_part = |name: &str| {
        Some(match name {
            "name" => PathPart::Name,
            "stem" => PathPart::Stem,
            "ext" => PathPart::Ext,
            "dir" => PathPart::Dir,
            _ => return None,
        })
    };
    let (field, part) = match rest.rsplit_once('.') {
        _ if rest.is_empty() => (None, None),
        Some((field, part)) if path_part(part).is_some() => (Some(field), path_part(part)),
        Some(_) => (Some(rest), None),
        None => match path_part(rest) {
            Some(part) => (None, Some(part)),
            None => (Some(rest), None),
        },
    };
    let field = field.map(str::to_string);
    match (&names.elements, &field) {
        (Elements::Plain, Some(name)) => Err(unknown("part of the item", name, PATH_PARTS.into_iter())),
        (Elements::Fields(known), Some(name)) if !known.contains(name) => {
            Err(unknown("value of the matrix", name, known.iter().map(String::as_str)))
        }
        (Elements::Fields(known), None) if part.is_some() => Err((
            format!("`{{item.{rest}}}` is for paths, and the items here are combinations"),
            format!("say which value: `{{item.{}.{rest}}}`", known.first().map_or("NAME", String::as_str)),
        )),
        _ => Ok(Some(Hole::Item { field, part })),
    }
}

fn input_hole(rest: &str, names: &Names) -> Classified {
    let (producer, output) = match rest.split_once('.') {
        Some((producer, output)) => (producer, Some(output)),
        None => (rest, None),
    };
    let Some(input) = names.inputs.iter().position(|(name, _)| name == producer) else {
        return Err(unknown("input", producer, names.inputs.iter().map(|(name, _)| name.as_str())));
    };
    if let (Some(output), Some(known)) = (output, &names.inputs[input].1)
        && !known.iter().any(|k| k == output)
    {
        let what = format!("output of `{producer}`");
        return Err(unknown(&what, output, known.iter().map(String::as_str)));
    }
    Ok(Some(Hole::Input { input, output: output.map(str::to_string) }))
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> (String, String) {
    let hint = match super::nearest(name, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let all: Vec<String> = known.map(|k| format!("`{k}`")).collect();
            if all.is_empty() {
                "there is none here".to_string()
            } else {
                format!("there is {}", all.join(", "))
            }
        }
    };
    (format!("unknown {what} `{name}`"), hint)
}
