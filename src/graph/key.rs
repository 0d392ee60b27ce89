//! The text of a task's key and back: what users type and read. Owns the rules of `docs/graph-file.md`,
//! "Keys"; nothing internal depends on the text, identity is (run, family, element).

use super::families::Graph;
use super::items::Items;
use super::layer::Shape;
use super::look::Look;
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::FamilyIx;
use std::fmt::{Display, Write as _};

impl Graph {
    /// The key of an element: `name` for a single task, `name[3]` for lists (the index) and ranges (the
    /// number), `name[re=100,dt=0.001]` for a matrix, `name[level,position]` for a tree. Families with the
    /// elements of another have that one's brackets. Only trees look at `shape`.
    pub fn key(&self, family: FamilyIx, element: u32, shape: Shape) -> String {
        key(self, family, element, shape)
    }

    /// The family and element that a key names; no element where it names a whole family. `shapes` says what
    /// is known of the sizes: elements beyond are refused, those of families still unknown are believed.
    pub fn parse_key(&self, text: &str, shapes: &[Option<Shape>]) -> Result<(FamilyIx, Option<u32>)> {
        parse(self, text, |family| shapes.get(family.index()).copied().flatten())
    }
}

/// See `Graph::key`.
pub(super) fn key(graph: &impl Look, family: FamilyIx, element: u32, shape: Shape) -> String {
    let Some(name) = graph.name_of(family) else { return format!("?{family}[{element}]") };
    key_text(name, graph.items_of(family), fan_in(graph, family), element, shape.total)
}

/// The fan-in of a tree; nothing has to be unpacked for what cannot be one.
fn fan_in(graph: &impl Look, family: FamilyIx) -> Option<u32> {
    match graph.own_items(family)? {
        Items::Index => graph.family(family)?.fan_in(),
        _ => None,
    }
}

/// See `Graph::parse_key`.
pub(super) fn parse(
    graph: &impl Look,
    text: &str,
    shape: impl Fn(FamilyIx) -> Option<Shape>,
) -> Result<(FamilyIx, Option<u32>)> {
    let (name, inside) = match text.split_once('[') {
        Some((name, rest)) => match rest.strip_suffix(']') {
            Some(inside) => (name, Some(inside)),
            None => return Err(not_found(format!("`{text}` is not a key: the bracket is not closed"))),
        },
        None => (text, None),
    };
    let Some(family) = graph.all_names().position(|n| n == name).map(|at| FamilyIx(at as u32)) else {
        return Err(unknown_name(graph, name));
    };
    let single = matches!(graph.items_of(family), Items::Single) && fan_in(graph, family).is_none();
    let Some(inside) = inside else { return Ok((family, single.then_some(0))) };
    if single {
        return Err(not_found(format!("`{name}` is a single task; its key is `{name}`")));
    }
    let shape = shape(family);
    match element(graph, family, inside, shape) {
        Some(e) if shape.is_none_or(|s| e < s.total) => Ok((family, Some(e))),
        _ => {
            let hint = key_hint(graph, family, shape);
            Err(not_found(format!("`{name}` has no element `[{inside}]`")).hint(hint))
        }
    }
}

fn element(graph: &impl Look, family: FamilyIx, inside: &str, shape: Option<Shape>) -> Option<u32> {
    if let Some(fan_in) = fan_in(graph, family) {
        let (level, position) = inside.split_once(',')?;
        let (level, position) = (decimal(level)?, decimal(position)?);
        let starts = level_starts(shape?.total, fan_in);
        let first = starts.get(level as usize)?;
        let end = starts.get(level as usize + 1).copied().unwrap_or(shape?.total);
        return first.checked_add(position).filter(|e| *e < end);
    }
    match graph.items_of(family) {
        Items::Range { start, step } => {
            let value: i64 = inside.parse().ok()?;
            let distance = i128::from(value) - i128::from(*start);
            let step = i128::from(*step);
            (step != 0 && distance % step == 0).then(|| u32::try_from(distance / step).ok()).flatten()
        }
        Items::Matrix(axes) => matrix_element(axes, inside),
        _ => decimal(inside),
    }
}

fn unknown_name(graph: &impl Look, name: &str) -> Error {
    let error = not_found(format!("the graph has no task `{name}`"));
    match super::nearest(name, graph.all_names()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error,
    }
}

fn key_hint(graph: &impl Look, family: FamilyIx, shape: Option<Shape>) -> String {
    match shape {
        Some(s) if s.total > 0 => {
            let (first, last) = (key(graph, family, 0, s), key(graph, family, s.total - 1, s));
            format!("its keys go from `{first}` to `{last}`")
        }
        Some(_) => "it has no elements".to_string(),
        None => "its elements are not known yet".to_string(),
    }
}

/// The key of an element of a family with these items and, if it is a tree, this fan-in; see `Graph::key`.
/// Only trees look at `total`, their number of elements.
pub fn key_text(name: &str, items: &Items, fan_in: Option<u32>, element: u32, total: u32) -> String {
    if let Some(fan_in) = fan_in {
        let starts = level_starts(total, fan_in);
        let level = starts.iter().rposition(|&s| s <= element).unwrap_or(0);
        return format!("{name}[{level},{}]", element - starts[level]);
    }
    match items {
        Items::Single => name.to_string(),
        Items::Range { start, step } => {
            match step.checked_mul(i64::from(element)).and_then(|up| start.checked_add(up)) {
                Some(number) => bracketed(name, number),
                None => bracketed(name, i128::from(*start) + i128::from(*step) * i128::from(element)),
            }
        }
        Items::Matrix(_) => match items.item(element) {
            super::items::Item::Fields(fields) => {
                let pairs: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={}", escape(v))).collect();
                format!("{name}[{}]", pairs.join(","))
            }
            _ => format!("{name}[{element}]"),
        },
        Items::Values(_) | Items::Blocks(_) | Items::Same(_) | Items::Index => bracketed(name, element),
    }
}

/// `name[inside]`, at once in as much memory as it mostly needs: there is one for each task that runs.
fn bracketed(name: &str, inside: impl Display) -> String {
    let mut text = String::with_capacity(name.len() + 12);
    text.push_str(name);
    // Writing into a string does not fail.
    let _ = write!(text, "[{inside}]");
    text
}

fn not_found(message: String) -> Error {
    Error::new(Kind::NotFound, message)
}

/// A number as the keys have it: digits, no sign, no leading zero.
fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// The first element of each level of a tree of `total` elements. The total alone determines them: it grows
/// with every element of the first level.
fn level_starts(total: u32, fan_in: u32) -> Vec<u32> {
    let starts_of = |width: u32| {
        let (mut starts, mut width, mut sum) = (vec![0u32], width, u64::from(width));
        while width > 1 {
            starts.push(sum as u32);
            width = width.div_ceil(fan_in.max(2));
            sum += u64::from(width);
        }
        (starts, sum)
    };
    let (mut low, mut high) = (1u32, total.max(1));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if starts_of(middle).1 <= u64::from(total) { low = middle } else { high = middle - 1 }
    }
    starts_of(low).0
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            ',' | '[' | ']' | '\\' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|c| if c == 'n' { '\n' } else { c })),
            _ => out.push(c),
        }
    }
    out
}

/// Splits at the commas that are not escaped.
fn split_fields(inside: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in inside.char_indices() {
        if c == ',' && !escaped {
            parts.push(&inside[start..at]);
            start = at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&inside[start..]);
    parts
}

fn matrix_element(axes: &[(String, Vec<String>)], inside: &str) -> Option<u32> {
    let fields = split_fields(inside);
    if fields.len() != axes.len() {
        return None;
    }
    let mut element = 0u64;
    for ((name, values), field) in axes.iter().zip(fields) {
        let value = unescape(field.strip_prefix(name.as_str())?.strip_prefix('=')?);
        let at = values.iter().position(|v| *v == value)?;
        element = element.checked_mul(values.len() as u64)?.checked_add(at as u64)?;
    }
    u32::try_from(element).ok()
}
