//! How a task's elements connect to those of its producers: from what is written to patterns and sizes. Owns
//! the rules of `docs/graph-file.md`, "Sizes"; reads no files.

use super::MAX_ELEMENTS;
use super::diagnostic::Diagnostic;
use super::items::Items;
use super::layer::{Border, Pattern, Size};
use super::raw::{At, RawEdge, RawTask, Wire};
use crate::base::ids::FamilyIx;
use std::ops::Range;

/// How many elements of a family later ones see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Known(u32),
    /// As many as this family, whose size follows at run time.
    Later(FamilyIx),
}

/// What a consumer sees of a family.
#[derive(Clone, Debug)]
pub struct Side {
    /// Its place.
    pub family: FamilyIx,
    /// Whether it has one result by its nature: a single task or a tree.
    pub one: bool,
    /// How many elements it shows.
    pub count: Count,
}

/// The elements that `for-each` gives.
pub struct Own {
    /// Their values.
    pub items: Items,
    /// Their number.
    pub total: u32,
    /// Where they are written.
    pub span: Range<usize>,
}

/// What a family turns out to be.
pub struct Wired {
    /// Its patterns, in the order of `from`, then `after`.
    pub patterns: Vec<Pattern>,
    /// Its number of elements.
    pub size: Size,
    /// Its values.
    pub items: Items,
    /// What later families see of it.
    pub side: Side,
    /// Which input of `from` gives the size.
    shaping: Option<usize>,
}

/// The pattern that a wire means.
fn pattern(edge: &RawEdge, side: &Side, data: bool, same_as: Option<&str>) -> Result<Pattern, Diagnostic> {
    let name = &edge.producer.it;
    let fault = |message: String, label: String| Err(Diagnostic::new(&edge.wire.span, message, label));
    Ok(match edge.wire.it {
        Wire::Unsaid if !data || side.one => Pattern::All,
        Wire::Unsaid if same_as == Some(name) => Pattern::Each,
        Wire::Unsaid => {
            let message = format!("`{name}` is a family, and nothing says how its elements connect");
            return fault(
                message,
                format!("expected {{ {name} = \"each\" }}, {{ {name} = \"all\" }} or the like"),
            );
        }
        Wire::Each => Pattern::Each,
        Wire::All => Pattern::All,
        Wire::Broadcast if side.one => Pattern::All,
        Wire::Broadcast => {
            let message = format!("`{name}` is a family, and only a single result can be broadcast");
            return fault(message, "expected \"all\" (every element gets all) or \"each\"".to_string());
        }
        Wire::Window(low, high, edge) => Pattern::Window { low, high, edge },
        Wire::Group(size) => Pattern::Group { size },
        Wire::Tree(_) | Wire::GroupBytes(_) if !data => {
            let message = "a tree or groups by bytes need data".to_string();
            return fault(message, "expected \"all\" or \"each\" under `after`".to_string());
        }
        Wire::Tree(fan_in) => Pattern::Tree { fan_in },
        Wire::GroupBytes(bytes) => Pattern::GroupBytes { bytes },
    })
}

/// The word for a pattern in messages.
pub fn pattern_name(pattern: &Pattern) -> String {
    match pattern {
        Pattern::Each => "each".to_string(),
        Pattern::All => "all".to_string(),
        Pattern::Window { low, high, edge } => {
            let edge = match edge {
                Border::Clip => "clip",
                Border::Wrap => "wrap",
                Border::Drop => "drop",
            };
            format!("window [{low},{high}] {edge}")
        }
        Pattern::Tree { fan_in } => format!("tree {fan_in}"),
        Pattern::Group { size } => format!("group {size}"),
        Pattern::GroupBytes { bytes } => format!("group-bytes {bytes}"),
        Pattern::Explicit(csr) => format!("explicit, {} edges", csr.targets.len()),
    }
}

/// Whether a pattern gives as many elements as its producer has, whatever that is.
fn keeps_count(pattern: &Pattern) -> bool {
    matches!(pattern, Pattern::Each | Pattern::Window { edge: Border::Clip | Border::Wrap, .. })
}

/// Connects the task that becomes `family`. `sides` are those of `from` and then of `after`.
pub fn wire(
    task: &RawTask,
    family: FamilyIx,
    sides: &[Side],
    own: Option<Own>,
) -> Result<Wired, Vec<Diagnostic>> {
    let same_as = match task.for_each.as_ref().map(|e| &e.it.list) {
        Some(super::raw::List::SameAs(name)) => Some(name.it.as_str()),
        _ => None,
    };
    let edges =
        || task.from.iter().map(|e| (e, true)).chain(task.after.iter().map(|e| (e, false))).zip(sides);
    let mut faults = Vec::new();
    let mut patterns = Vec::new();
    for ((edge, data), side) in edges() {
        match pattern(edge, side, data, same_as) {
            Ok(pattern) => patterns.push(pattern),
            Err(fault) => faults.push(fault),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let place = own.as_ref().map_or(task.name.span.clone(), |own| own.span.clone());
    let mut wired = shape(task, family, sides, &patterns, own).map_err(|f| vec![f])?;
    for (i, (((edge, data), side), pattern)) in edges().zip(&patterns).enumerate() {
        let gives_size = data && wired.shaping == Some(i);
        if !gives_size && *pattern != Pattern::All {
            faults.extend(disagrees(&task.name.it, &wired, edge, side, pattern, &place));
        }
    }
    wired.patterns = patterns;
    if faults.is_empty() { Ok(wired) } else { Err(faults) }
}

/// Size and values, from `for-each` or else from the first input that gives a shape.
fn shape(
    task: &RawTask,
    family: FamilyIx,
    sides: &[Side],
    patterns: &[Pattern],
    own: Option<Own>,
) -> Result<Wired, Diagnostic> {
    let shapes = |p: &&Pattern| !matches!(p, Pattern::All);
    let shaping: Vec<usize> = (0..task.from.len()).filter(|i| shapes(&&patterns[*i])).collect();
    let alone = |p: &Pattern| matches!(p, Pattern::Tree { .. } | Pattern::GroupBytes { .. });
    if let Some(i) = shaping.iter().find(|i| alone(&patterns[**i]))
        && (own.is_some() || shaping.len() > 1)
    {
        let what = if own.is_some() { "`for-each`" } else { "another input that gives elements" };
        let message =
            format!("`{}` makes its own elements and cannot stand with {what}", pattern_name(&patterns[*i]));
        return Err(Diagnostic::new(&task.from[*i].wire.span, message, "expected only one of them"));
    }
    let first = if own.is_some() { None } else { shaping.first().copied() };
    let wired = |size, items, one, count| {
        Ok(Wired { patterns: Vec::new(), size, items, side: Side { family, one, count }, shaping: first })
    };
    if let Some(own) = own {
        return wired(Size::Fixed(own.total), own.items, false, Count::Known(own.total));
    }
    let Some(first) = first else {
        return wired(Size::Fixed(1), Items::Single, true, Count::Known(1));
    };
    let (side, pattern) = (&sides[first], &patterns[first]);
    let tree = matches!(pattern, Pattern::Tree { .. });
    let items = match pattern {
        Pattern::Each if side.one => Items::Single,
        Pattern::Each => Items::Same(side.family),
        _ => Items::Index,
    };
    let one = tree || items == Items::Single;
    match side.count {
        Count::Known(n) => match pattern.shape(n) {
            Some(shape) if shape.total <= MAX_ELEMENTS => {
                wired(Size::Fixed(shape.total), items, one, Count::Known(shape.exports()))
            }
            Some(_) => {
                let label = format!("expected at most {MAX_ELEMENTS}");
                Err(Diagnostic::new(&task.from[first].wire.span, "there are too many elements", label))
            }
            None => wired(Size::Follows, items, false, Count::Later(family)),
        },
        Count::Later(root) => {
            let count = match pattern {
                _ if tree => Count::Known(1),
                p if keeps_count(p) => Count::Later(root),
                _ => Count::Later(family),
            };
            wired(Size::Follows, items, one, count)
        }
    }
}

/// What is wrong between the size of a family and one of its edges.
fn disagrees(
    name: &str,
    wired: &Wired,
    edge: &RawEdge,
    side: &Side,
    pattern: &Pattern,
    place: &Range<usize>,
) -> Option<Diagnostic> {
    let producer = &edge.producer.it;
    let said = pattern_name(pattern);
    match (side.count, wired.size) {
        (Count::Known(n), Size::Fixed(total)) => {
            let gives = pattern.shape(n).map_or(0, |s| s.total);
            if gives == total {
                return None;
            }
            let message = format!(
                "`{name}` has {}, but `{said}` over {} of `{producer}` gives {gives}",
                elements(total),
                elements(n)
            );
            let label =
                if n == 1 { "expected equal sizes, or \"broadcast\"" } else { "expected equal sizes" };
            let fault = Diagnostic::new(&edge.wire.span, message, label);
            Some(fault.other(place, format!("`{name}` gets its size here")))
        }
        (Count::Later(root), Size::Follows)
            if keeps_count(pattern) && wired.side.count == Count::Later(root) =>
        {
            None
        }
        _ => {
            let message = format!(
                "the elements of `{name}` and of `{producer}` cannot be matched: one of the numbers is \
                 known only once groups by bytes are formed"
            );
            Some(Diagnostic::new(&edge.wire.span, message, "expected \"all\" here, or no `for-each`"))
        }
    }
}

fn elements(n: u32) -> String {
    if n == 1 { "1 element".to_string() } else { format!("{n} elements") }
}

/// The elements of `same-as`.
pub fn same_as(name: &At<String>, side: &Side) -> Result<(Items, u32), Diagnostic> {
    match side.count {
        Count::Known(n) if !side.one => Ok((Items::Same(side.family), n)),
        Count::Known(_) => {
            let message = format!("`{}` is not a family", name.it);
            Err(Diagnostic::new(&name.span, message, "expected a task with several elements"))
        }
        Count::Later(_) => {
            let message =
                format!("how many elements `{}` has is known only once groups by bytes are formed", name.it);
            let label = format!("expected `from = {{ {} = \"each\" }}` instead", name.it);
            Err(Diagnostic::new(&name.span, message, label))
        }
    }
}
