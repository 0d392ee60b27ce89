//! A graph as it travels and as the scheduler keeps it: what many families have in common once, the rest of
//! each in a few bytes. Owns the form; `Graph` is what it is made of and what families come out as.
//!
//! A graph of individual tasks has a family for each. Unpacked, one takes more than a kilobyte; most of it is
//! the same for all of them (directory, limits, environment) or said twice (names of producers).

use super::families::{Family, Graph, GraphOutput};
use super::items::Items;
use super::layer::{Edge, Pattern, Shape};
use super::look::Look;
use super::names::FamilyNames;
use super::spec::{Action, Input, Output};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::FamilyIx;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A packed graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Packed {
    /// What people call it.
    pub name: String,
    /// Which results are written to files.
    pub outputs: Vec<GraphOutput>,
    /// Parameters it was made with.
    pub params: BTreeMap<String, String>,
    names: Arc<FamilyNames>,
    /// Families without name, action, inputs, edges and items.
    templates: Vec<Family>,
    /// What a family has of its own: the number of its template, then `Own`.
    own: Bodies,
    /// The items of families that are not single tasks.
    items: BTreeMap<FamilyIx, Items>,
}

/// What differs from task to task.
#[derive(Serialize, Deserialize)]
struct Own {
    action: Action,
    /// If every edge takes all results of an earlier family: how far back each of these is.
    back: Vec<u32>,
    /// The edges otherwise.
    edges: Vec<Edge>,
    /// The inputs, if anything but the producers' names is said of them.
    inputs: Option<Vec<OwnInput>>,
}

/// An input; the name only if it is not that of the edge's producer.
type OwnInput = (Option<String>, bool, Option<String>);

/// Byte strings, one after another.
#[derive(Clone, Debug, Default, PartialEq)]
struct Bodies {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

/// A million of these are decoded at once: the bytes as a whole, and their lengths.
#[derive(Serialize, Deserialize)]
struct BodiesOnWire<'a> {
    #[serde(with = "serde_bytes", borrow)]
    bytes: Cow<'a, [u8]>,
    lengths: Vec<u32>,
}

impl Bodies {
    fn get(&self, at: usize) -> Option<&[u8]> {
        let end = *self.ends.get(at)? as usize;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.bytes.get(start..end)
    }
}

impl Serialize for Bodies {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut start = 0;
        let lengths = self.ends.iter().map(|end| end - std::mem::replace(&mut start, *end)).collect();
        BodiesOnWire { bytes: Cow::Borrowed(&self.bytes), lengths }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Bodies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Bodies, D::Error> {
        let BodiesOnWire { bytes, lengths } = BodiesOnWire::deserialize(deserializer)?;
        let mut ends = lengths;
        let mut end = 0u32;
        for length in &mut ends {
            let sum = end.checked_add(*length).filter(|sum| *sum as usize <= bytes.len());
            end = sum.ok_or_else(|| serde::de::Error::custom("lengths of tasks beyond their bytes"))?;
            *length = end;
        }
        Ok(Bodies { bytes: bytes.into_owned(), ends })
    }
}

impl Packed {
    /// Packs a graph. Nothing is checked: what is wrong with it stays so.
    ///
    /// # Errors
    /// `Graph` when it is far larger than any message.
    pub fn new(graph: Graph) -> Result<Packed> {
        let names: FamilyNames = graph.families.iter().map(|f| &f.spec.name).collect();
        let mut packed = Packed {
            name: graph.name,
            outputs: graph.outputs,
            params: graph.params,
            names: Arc::new(names),
            ..Packed::default()
        };
        let mut known = FxHashMap::default();
        let mut last = None;
        for (ix, family) in (0..).map(FamilyIx).zip(graph.families) {
            let (rest, own) = packed.divide(ix, family);
            let template = match last {
                Some(last) if packed.templates[last as usize] == rest => last,
                _ => packed.template(rest, &mut known)?,
            };
            last = Some(template);
            encode(&mut packed.own.bytes, &template)?;
            encode(&mut packed.own.bytes, &own)?;
            packed.own.ends.push(u32::try_from(packed.own.bytes.len()).map_err(|_| too_large())?);
        }
        packed.own.bytes.shrink_to_fit();
        packed.own.ends.shrink_to_fit();
        Ok(packed)
    }

    /// A graph of which only the names and the size of each family are told: what they do is known elsewhere.
    ///
    /// # Errors
    /// `Graph` when it is far larger than any message.
    pub fn of_names(name: String, names: FamilyNames, like: Family) -> Result<Packed> {
        let own = Own { action: Action::Argv(Vec::new()), back: Vec::new(), edges: Vec::new(), inputs: None };
        let mut one = Vec::new();
        encode(&mut one, &0u32)?;
        encode(&mut one, &own)?;
        let all = one.len().checked_mul(names.len()).and_then(|n| u32::try_from(n).ok());
        let all = all.ok_or_else(too_large)? as usize;
        let own = Bodies {
            bytes: one.repeat(names.len()),
            ends: (1..=names.len()).map(|n| (all / names.len() * n) as u32).collect(),
        };
        let mut items = BTreeMap::new();
        if like.items != Items::Single {
            items.extend((0..names.len() as u32).map(|f| (FamilyIx(f), like.items.clone())));
        }
        let template = Family { items: Items::Single, ..like };
        Ok(Packed {
            name,
            names: Arc::new(names),
            templates: vec![template],
            own,
            items,
            ..Packed::default()
        })
    }

    /// The number of a template, which is new or known.
    fn template(&mut self, rest: Family, known: &mut FxHashMap<Vec<u8>, u32>) -> Result<u32> {
        let mut bytes = Vec::new();
        encode(&mut bytes, &rest)?;
        let new = self.templates.len() as u32;
        let template = *known.entry(bytes).or_insert(new);
        if template == new {
            self.templates.push(rest);
        }
        Ok(template)
    }

    /// What a family may share with others, and what it has of its own.
    fn divide(&mut self, ix: FamilyIx, mut family: Family) -> (Family, Own) {
        let items = std::mem::replace(&mut family.items, Items::Single);
        if items != Items::Single {
            self.items.insert(ix, items);
        }
        family.spec.name.clear();
        let action = std::mem::replace(&mut family.spec.action, Action::Argv(Vec::new()));
        let mut edges = std::mem::take(&mut family.layer.edges);
        let inputs = self.own_inputs(&edges, std::mem::take(&mut family.spec.inputs));
        let plain = |e: &Edge| e.data && e.pattern == Pattern::All && e.producer < ix;
        let back = match edges.iter().all(plain) {
            true => edges.drain(..).map(|e| ix.0 - e.producer.0).collect(),
            false => Vec::new(),
        };
        (family, Own { action, back, edges, inputs })
    }

    fn own_inputs(&self, edges: &[Edge], inputs: Vec<Input>) -> Option<Vec<OwnInput>> {
        let mut data = edges.iter().filter(|e| e.data).map(|e| self.names.get(e.producer));
        let mut own = |input: Input| {
            let told = data.next().flatten() == Some(input.producer.as_str());
            ((!told).then_some(input.producer), input.materialize, input.file_name)
        };
        let own: Vec<OwnInput> = inputs.into_iter().map(&mut own).collect();
        let all_told = data.next().is_none() && own.iter().all(|i| *i == (None, false, None));
        (!all_told).then_some(own)
    }

    /// The names of the families.
    pub fn names(&self) -> &Arc<FamilyNames> {
        &self.names
    }

    /// The number of a family's template, and the rest of its bytes.
    fn begin(&self, family: FamilyIx) -> Option<(&Family, &[u8])> {
        let mut bytes = self.own.get(family.index())?;
        let template = u32::deserialize(&mut rmp_serde::Deserializer::new(&mut bytes)).ok()?;
        Some((self.templates.get(template as usize)?, bytes))
    }

    fn unpack(&self, ix: FamilyIx) -> Option<Family> {
        let (template, bytes) = self.begin(ix)?;
        let own: Own = rmp_serde::from_slice(bytes).ok()?;
        let mut family = template.clone();
        family.spec.name.push_str(self.names.get(ix)?);
        family.spec.action = own.action;
        family.layer.edges = own.edges;
        for back in own.back {
            let producer = FamilyIx(ix.0.checked_sub(back)?);
            family.layer.edges.push(Edge { producer, pattern: Pattern::All, data: true });
        }
        let data = family.layer.edges.iter().filter(|e| e.data);
        let mut names = data.map(|e| self.names.get(e.producer));
        let input = |(name, materialize, file_name): OwnInput| {
            let told = names.next().flatten();
            Some(Input { producer: name.or_else(|| told.map(str::to_owned))?, materialize, file_name })
        };
        family.spec.inputs = match own.inputs {
            Some(inputs) => inputs.into_iter().map(input).collect::<Option<_>>()?,
            None => {
                let name = |name: Option<&str>| {
                    Some(Input { producer: name?.to_owned(), materialize: false, file_name: None })
                };
                names.map(name).collect::<Option<_>>()?
            }
        };
        family.items = self.own_items(ix)?.clone();
        Some(family)
    }

    /// Checks everything that code behind this relies on, as `Graph::validate` does, and hands each family to
    /// `each`, with the shapes of all up to it; what that refuses is refused by its name. No more than
    /// one family is unpacked at a time.
    ///
    /// # Errors
    /// `Graph`.
    pub fn validate(
        &self,
        each: impl FnMut(Family, &[Option<Shape>]) -> std::result::Result<(), String>,
    ) -> Result<()> {
        if self.names.len() != self.own.ends.len() {
            return Err(Error::new(Kind::Graph, "the graph has not as many names as tasks"));
        }
        let mut each = each;
        super::validate::check(self, |family, shapes| each(family.into_owned(), shapes))
    }

    /// The key of an element; see `Graph::key`.
    pub fn key(&self, family: FamilyIx, element: u32, shape: Shape) -> String {
        super::key::key(self, family, element, shape)
    }

    /// The family and element that a key names; see `Graph::parse_key`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn parse_key(
        &self,
        text: &str,
        shape: impl Fn(FamilyIx) -> Option<Shape>,
    ) -> Result<(FamilyIx, Option<u32>)> {
        super::key::parse(self, text, shape)
    }
}

impl Look for Packed {
    fn count(&self) -> usize {
        self.own.ends.len()
    }

    fn family(&self, family: FamilyIx) -> Option<Cow<'_, Family>> {
        self.unpack(family).map(Cow::Owned)
    }

    fn name_of(&self, family: FamilyIx) -> Option<&str> {
        self.names.get(family)
    }

    fn outputs_of(&self, family: FamilyIx) -> Option<&[Output]> {
        Some(&self.begin(family)?.0.spec.outputs)
    }

    fn own_items(&self, family: FamilyIx) -> Option<&Items> {
        let single = (family.index() < self.count()).then_some(&Items::Single);
        self.items.get(&family).or(single)
    }

    fn graph_outputs(&self) -> &[GraphOutput] {
        &self.outputs
    }

    fn all_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter()
    }
}

fn encode(into: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    rmp_serde::encode::write(into, value).map_err(|e| Error::os("cannot pack the graph", e))
}

fn too_large() -> Error {
    Error::new(Kind::Graph, "the graph is too large")
        .hint("make families of tasks that differ only by their element, or submit it in parts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::layer::Size;
    use crate::graph::tests::toml;

    const GRAPH: &str = "[task.a]\nfor-each = { range = [0, 10] }\nargv = ['x', '{item}']\n\
        outputs = { side = 'side.txt' }\n\
        [task.b]\nfrom = { a = 'each' }\nshell = 'cat {in.a.side}'\n\
        [task.c]\nfrom = { b = { tree = 4 } }\nargv = ['x']\nretries = 3\n\
        [task.d]\nfrom = ['c']\nargv = ['x']\n[task.e]\nfrom = ['d', 'c']\nargv = ['y']\n\
        [task.f]\nafter = ['d']\nfrom = ['e']\nargv = ['y']\n[output]\nb = 'o/{index}'\n";

    fn again(packed: &Packed) -> Packed {
        rmp_serde::from_slice(&rmp_serde::to_vec(packed).unwrap()).unwrap()
    }

    #[test]
    fn families_come_out_as_they_went_in() {
        let graph = toml(GRAPH);
        let packed = again(&Packed::new(graph.clone()).unwrap());
        let mut seen = 0;
        packed
            .validate(|family, shapes| {
                assert_eq!(family, graph.families[seen]);
                assert_eq!(shapes.len(), seen + 1);
                seen += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, graph.families.len());
        assert_eq!(packed.unpack(FamilyIx(seen as u32)), None);
        let shapes = graph.shapes();
        for (f, shape) in (0..).map(FamilyIx).zip(shapes.iter().copied()) {
            let key = graph.key(f, 0, shape.unwrap());
            assert_eq!(packed.key(f, 0, shape.unwrap()), key);
            assert_eq!(packed.parse_key(&key, |f| shapes[f.index()]), Ok((f, Some(0))), "{key}");
        }
        let refused = packed.validate(|family, _| match family.spec.name.as_str() {
            "d" => Err("not this one".into()),
            _ => Ok(()),
        });
        assert!(refused.unwrap_err().message.contains("`d`: not this one"));
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        let bad: [fn(&mut Graph); 6] = [
            |g| g.families[3].layer.edges[0].producer = FamilyIx(7),
            |g| g.families[3].layer.edges[0].producer = FamilyIx(3),
            |g| g.families[3].spec.inputs.clear(),
            |g| g.families[4].spec.inputs[0].producer = "b".into(),
            |g| g.families[0].layer.size = Size::Fixed(u32::MAX),
            |g| g.families[0].spec.name = "a\nb".into(),
        ];
        for (at, spoil) in bad.iter().enumerate() {
            let mut graph = toml(GRAPH);
            spoil(&mut graph);
            assert!(graph.validate().is_err(), "{at}");
            assert!(again(&Packed::new(graph).unwrap()).validate(|_, _| Ok(())).is_err(), "{at}");
        }
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let good = Packed::new(toml(GRAPH)).unwrap();
        let damage: [fn(&mut Packed); 4] = [
            |p| p.templates.clear(),
            |p| p.own.bytes.truncate(20),
            |p| p.own.bytes.iter_mut().for_each(|b| *b ^= 0x55),
            |p| p.own.ends.truncate(3),
        ];
        for (at, damage) in damage.iter().enumerate() {
            let mut packed = good.clone();
            damage(&mut packed);
            assert!(packed.validate(|_, _| Ok(())).is_err(), "{at}");
        }
        let mut short = good;
        short.own.ends[0] = u32::MAX;
        assert!(short.validate(|_, _| Ok(())).is_err());
    }

    #[test]
    fn individual_tasks_take_few_bytes() {
        let mut text = String::new();
        for i in 0..1000 {
            text += &format!("[task.cell-{i}]\nargv = ['true']\n");
            if i >= 3 {
                text += &format!("from = ['cell-{}', 'cell-{}', 'cell-{}']\n", i - 3, i - 2, i - 1);
            }
        }
        let packed = Packed::new(toml(&text)).unwrap();
        assert_eq!((packed.templates.len(), packed.items.len()), (1, 0));
        let bytes = rmp_serde::to_vec(&packed).unwrap().len();
        assert!(bytes < 40 * 1000, "{bytes}");
    }
}
