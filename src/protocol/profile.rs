//! Stacks of Python tasks and what commands have used, as executors write them, workers send them and
//! dashboards show them. Owns the flat form, how many become one, and the bounds of all of it; whoever
//! wrote it is not believed.

use crate::base::ids::{RunId, RunUuid};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// Frames of a stack that count, from the outermost: readers of JSON do not go much deeper than this.
pub const DEPTH_MAX: usize = 56;

/// Nodes that are taken from one source.
const NODES_MAX: usize = 50_000;

/// Groups that are kept apart.
const GROUPS_MAX: usize = 2000;

/// Characters of a name.
const NAME_MAX: usize = 200;

/// Nodes of an answer.
const SHOWN_MAX: usize = 5000;

/// A function: its name, file and first line.
pub type Frame = (String, String, u32);

/// Stacks in a form without pointers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// How far apart samples are, seconds.
    pub interval: f64,
    /// Functions.
    pub frames: Vec<Frame>,
    /// Trees of calls.
    pub groups: Vec<Stacks>,
    /// What commands have used.
    #[serde(default)]
    pub commands: Vec<Commands>,
}

/// The stacks of a group of tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stacks {
    /// The run, where that is kept apart.
    pub run: Option<RunUuid>,
    /// The group.
    pub name: String,
    /// The node before which calls it (-1: none), the function, samples in the function itself.
    pub nodes: Vec<(i64, u32, u64)>,
}

/// What the commands of a family have used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Commands {
    /// The run, where that is kept apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The family.
    pub name: String,
    /// Attempts that have ended.
    pub count: u64,
    /// CPU seconds in user mode.
    pub user: f64,
    /// CPU seconds in the kernel.
    pub system: f64,
    /// The largest resident size of any of their processes, bytes.
    pub memory_peak_max: u64,
    /// Bytes read from storage.
    pub read: u64,
    /// Bytes written to storage.
    pub written: u64,
}

impl Commands {
    /// Adds what others have used.
    pub fn add(&mut self, other: &Commands) {
        self.count = self.count.saturating_add(other.count);
        self.user += other.user.max(0.0);
        self.system += other.system.max(0.0);
        self.memory_peak_max = self.memory_peak_max.max(other.memory_peak_max);
        self.read = self.read.saturating_add(other.read);
        self.written = self.written.saturating_add(other.written);
    }
}

#[derive(Clone, Debug, Default)]
struct Node {
    own: u64,
    below: BTreeMap<usize, usize>,
}

/// Calls of functions by functions; the first node calls the outermost ones.
#[derive(Clone, Debug)]
struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    fn new() -> Tree {
        Tree { nodes: vec![Node::default()] }
    }

    fn child(&mut self, of: usize, frame: usize) -> usize {
        if let Some(found) = self.nodes[of].below.get(&frame) {
            return *found;
        }
        if self.nodes.len() >= NODES_MAX {
            return of;
        }
        self.nodes.push(Node::default());
        let new = self.nodes.len() - 1;
        self.nodes[of].below.insert(frame, new);
        new
    }

    /// Samples of each node, those below it included. Nodes come after those that call them.
    fn sums(&self) -> Vec<u64> {
        let mut sums: Vec<u64> = self.nodes.iter().map(|node| node.own).collect();
        for n in (0..self.nodes.len()).rev() {
            sums[n] =
                self.nodes[n].below.values().fold(sums[n], |sum, below| sum.saturating_add(sums[*below]));
        }
        sums
    }

    fn add(&mut self, from: &Tree, at: usize, to: usize) {
        self.nodes[to].own = self.nodes[to].own.saturating_add(from.nodes[at].own);
        for (frame, below) in &from.nodes[at].below {
            let child = self.child(to, *frame);
            self.add(from, *below, child);
        }
    }
}

/// Many that have become one.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    interval: f64,
    frames: Vec<Frame>,
    known: HashMap<Frame, usize>,
    groups: BTreeMap<(Option<RunUuid>, String), Tree>,
    commands: BTreeMap<String, Commands>,
}

fn short(text: &str) -> String {
    text.chars().take(NAME_MAX).collect()
}

impl Merged {
    /// Adds one; only of a run, if that is given. What makes no sense in it is left out.
    pub fn add(&mut self, profile: &Profile, run: Option<RunUuid>) {
        if profile.interval.is_finite() {
            self.interval = self.interval.max(profile.interval.clamp(0.0, 3600.0));
        }
        let frames: Vec<usize> =
            profile.frames.iter().take(NODES_MAX).map(|frame| self.frame(frame)).collect();
        for stacks in profile.groups.iter().filter(|s| run.is_none() || s.run == run) {
            let key = (stacks.run, short(&stacks.name));
            if !self.groups.contains_key(&key) && self.groups.len() >= GROUPS_MAX {
                continue;
            }
            let tree = self.groups.entry(key).or_insert_with(Tree::new);
            let mut places: Vec<(usize, usize)> = Vec::new();
            for (before, frame, own) in stacks.nodes.iter().take(NODES_MAX) {
                let caller = match usize::try_from(*before) {
                    Ok(before) => places.get(before).copied(),
                    Err(_) => Some((0, 0)),
                };
                let known = frames.get(*frame as usize);
                let place = match (caller, known) {
                    (Some((at, depth)), Some(frame)) if depth < DEPTH_MAX => {
                        (tree.child(at, *frame), depth + 1)
                    }
                    (Some(place), _) => place,
                    (None, _) => (0, 0),
                };
                let node = &mut tree.nodes[place.0];
                node.own = node.own.saturating_add(*own);
                places.push(place);
            }
        }
        for commands in &profile.commands {
            if self.commands.len() < GROUPS_MAX || self.commands.contains_key(&commands.name) {
                let name = short(&commands.name);
                let sum = self
                    .commands
                    .entry(name.clone())
                    .or_insert_with(|| Commands { name, ..Commands::default() });
                sum.add(commands);
            }
        }
    }

    /// Keeps runs apart no longer, if there are more than so many trees.
    pub fn forget_runs(&mut self, most: usize) {
        if self.groups.len() <= most {
            return;
        }
        for ((_, name), tree) in std::mem::take(&mut self.groups) {
            self.groups.entry((None, name)).or_insert_with(Tree::new).add(&tree, 0, 0);
        }
    }

    fn frame(&mut self, frame: &Frame) -> usize {
        let frame = (short(&frame.0), short(&frame.1), frame.2);
        let next = self.frames.len();
        let found = *self.known.entry(frame.clone()).or_insert(next);
        if found == next {
            self.frames.push(frame);
        }
        found
    }

    /// In the flat form, with no more than about so many nodes: what is called rarely counts for its caller.
    pub fn to_profile(&self, most: usize) -> Profile {
        let sums: Vec<Vec<u64>> = self.groups.values().map(Tree::sums).collect();
        let least = least(sums.iter().flatten().copied(), most);
        let mut flat = Flat::default();
        let trees = self.groups.iter().zip(&sums).map(|(((run, name), tree), sums)| {
            let nodes = flat.tree(tree, sums, least);
            Stacks { run: *run, name: name.clone(), nodes }
        });
        let groups = trees.filter(|stacks| !stacks.nodes.is_empty()).collect();
        let frames = flat.frames.iter().map(|frame| self.frames[*frame].clone()).collect();
        Profile {
            interval: self.interval,
            frames,
            groups,
            commands: self.commands.values().cloned().collect(),
        }
    }

    /// As `docs/api.md` has it; the tree of one group, if that is given.
    pub fn to_json(&self, group: Option<&str>) -> Value {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        let mut all = Tree::new();
        for ((_, name), tree) in &self.groups {
            let samples = tree.sums()[0];
            *sums.entry(name).or_default() += samples;
            if group.is_none_or(|group| group == name) {
                all.add(tree, 0, 0);
            }
        }
        let mut groups: Vec<Value> =
            sums.iter().map(|(name, samples)| json!({ "name": name, "samples": samples })).collect();
        for commands in self.commands.values() {
            let used = json!({
                "count": commands.count, "user": commands.user, "system": commands.system,
                "memory-peak-max": commands.memory_peak_max,
                "read": commands.read, "written": commands.written,
            });
            match groups.iter_mut().find(|group| group["name"] == commands.name.as_str()) {
                Some(group) => group["commands"] = used,
                None => groups.push(json!({ "name": commands.name, "samples": 0, "commands": used })),
            }
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group["samples"].as_u64()));
        let sums = all.sums();
        let least = least(sums.iter().copied(), SHOWN_MAX);
        let root = self.node(&all, &sums, least, (0, None));
        json!({ "samples": sums[0], "interval": self.interval, "groups": groups, "root": root })
    }

    fn node(&self, tree: &Tree, sums: &[u64], least: u64, (at, frame): (usize, Option<usize>)) -> Value {
        let shown = tree.nodes[at].below.iter().filter(|(_, below)| sums[**below] >= least);
        let mut below: Vec<(usize, usize)> = shown.map(|(frame, below)| (*frame, *below)).collect();
        below.sort_by_key(|(frame, below)| (std::cmp::Reverse(sums[*below]), *frame));
        let children = below.into_iter().map(|(frame, at)| self.node(tree, sums, least, (at, Some(frame))));
        let children: Vec<Value> = children.collect();
        let frame = frame.map(|frame| &self.frames[frame]);
        json!({
            "name": frame.map_or("", |f| f.0.as_str()),
            "file": frame.map(|f| f.1.as_str()),
            "line": frame.map(|f| f.2),
            "samples": sums[at],
            "children": children,
        })
    }
}

/// Makes trees flat, with the functions that are left in them.
#[derive(Default)]
struct Flat {
    frames: Vec<usize>,
    places: HashMap<usize, u32>,
}

impl Flat {
    fn tree(&mut self, tree: &Tree, sums: &[u64], least: u64) -> Vec<(i64, u32, u64)> {
        let mut nodes: Vec<(i64, u32, u64)> = Vec::new();
        let mut open: Vec<(usize, i64)> = vec![(0, -1)];
        while let Some((at, place)) = open.pop() {
            for (frame, below) in &tree.nodes[at].below {
                let sum = sums[*below];
                if sum < least {
                    let caller = usize::try_from(place).ok().and_then(|place| nodes.get_mut(place));
                    caller.into_iter().for_each(|caller| caller.2 = caller.2.saturating_add(sum));
                    continue;
                }
                nodes.push((place, self.place(*frame), tree.nodes[*below].own));
                open.push((*below, nodes.len() as i64 - 1));
            }
        }
        nodes
    }

    fn place(&mut self, frame: usize) -> u32 {
        *self.places.entry(frame).or_insert_with(|| {
            self.frames.push(frame);
            self.frames.len() as u32 - 1
        })
    }
}

/// The least samples of a node, so that there are not too many.
fn least(sums: impl Iterator<Item = u64>, most: usize) -> u64 {
    let mut sorted: Vec<u64> = sums.collect();
    if sorted.len() <= most {
        return 0;
    }
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted[most].saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(name: &str) -> Frame {
        (name.into(), "a.py".into(), 3)
    }

    fn profile(run: u128, group: &str, nodes: &[(i64, u32, u64)]) -> Profile {
        let frames = ["main", "inner", "other"].map(frame).to_vec();
        let run = Some(RunUuid::from_u128(run));
        let groups = vec![Stacks { run, name: group.into(), nodes: nodes.to_vec() }];
        Profile { interval: 0.01, frames, groups, commands: vec![] }
    }

    #[test]
    fn stacks_are_added_up() {
        let mut merged = Merged::default();
        merged.add(&profile(1, "inc", &[(-1, 0, 1), (0, 1, 5)]), None);
        merged.add(&profile(2, "inc", &[(-1, 0, 0), (0, 1, 2), (0, 2, 4)]), None);
        merged.add(&profile(2, "dec", &[(-1, 2, 10)]), None);
        let commands = Commands { name: "solve".into(), count: 2, user: 1.5, read: 7, ..Commands::default() };
        merged.add(&Profile { commands: vec![commands.clone(), commands], ..Profile::default() }, None);
        let json = merged.to_json(Some("inc"));
        assert_eq!((&json["samples"], &json["interval"]), (&json!(12), &json!(0.01)));
        assert_eq!(json["groups"][0], json!({ "name": "inc", "samples": 12 }));
        assert_eq!(json["groups"][1], json!({ "name": "dec", "samples": 10 }));
        assert_eq!(
            (&json["groups"][2]["commands"]["count"], &json["groups"][2]["commands"]["user"]),
            (&json!(4), &json!(3.0))
        );
        let main = &json["root"]["children"][0];
        assert_eq!((&main["name"], &main["samples"], &main["line"]), (&json!("main"), &json!(12), &json!(3)));
        assert_eq!(
            (&main["children"][0]["name"], &main["children"][0]["samples"]),
            (&json!("inner"), &json!(7))
        );
        assert_eq!(merged.to_json(None)["samples"], 22);
        // There and back.
        let mut again = Merged::default();
        again.add(&merged.to_profile(1000), None);
        assert_eq!(again.to_json(None), merged.to_json(None));
        let mut one = Merged::default();
        one.add(&merged.to_profile(1000), Some(RunUuid::from_u128(2)));
        assert_eq!(one.to_json(None)["samples"], 16);
    }

    #[test]
    fn nonsense_and_excess_do_no_harm() {
        let mut merged = Merged::default();
        merged.add(&profile(1, &"x".repeat(5000), &[(7, 0, 1), (-9, 99, u64::MAX), (1, 1, u64::MAX)]), None);
        let deep: Vec<_> = (0..500).map(|n| (n - 1, (n % 3) as u32, 1)).collect();
        merged.add(&profile(2, "deep", &deep), None);
        merged.add(&Profile { interval: f64::NAN, ..Profile::default() }, None);
        let text = merged.to_json(Some("deep")).to_string();
        let back: Value = serde_json::from_str(&text).expect("not too deep for readers");
        assert_eq!(back["samples"], 500);
        let many: Vec<_> = (0..40_000).map(|n| (-1, n, u64::from(n % 100))).collect();
        let mut wide = profile(3, "wide", &many);
        wide.frames = (0..40_000).map(|n| frame(&format!("f{n}"))).collect();
        merged.add(&wide, None);
        let small = merged.to_profile(500);
        let nodes: usize = small.groups.iter().map(|stacks| stacks.nodes.len()).sum();
        assert!(nodes <= 500 && small.frames.len() <= 500, "{nodes}");
        let json = merged.to_json(Some("wide"));
        assert!(json["root"]["children"].as_array().unwrap().len() <= SHOWN_MAX);
    }
}
