//! How much work could run now if there were room for it: what whoever grows and shrinks a cluster asks. Owns
//! the counting, by family; it changes nothing and costs time in proportion to families, not to tasks.

use super::Core;
use super::run::Run;
use super::state::State;
use crate::base::ids::FamilyIx;
use crate::graph::layer::Pattern;
use std::collections::BTreeMap;
use std::time::Duration;

/// Tasks that are ready or in hand and need the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// What each occupies, in 1/10,000 threads.
    pub slots: u32,
    /// Whole workers that each takes; 1 for those that take slots of one.
    pub nodes: u32,
    /// Named resources of each, in 1/10,000.
    pub resources: BTreeMap<String, u64>,
    /// Bytes that each declares or is expected to leave behind.
    pub memory: u64,
    /// How many there are.
    pub tasks: u64,
    /// How many are worth a place of their own, by what their families have taken so far.
    pub useful: u64,
    /// How many more would be if they take long: nothing of their families has ended yet.
    pub guessed: u64,
    /// Work in tasks whose duration is known, with what follows each directly, in nanoseconds.
    pub work_ns: u128,
}

/// What could run now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Tasks by what they need.
    pub groups: Vec<Group>,
}

impl Demand {
    /// Slots (1/10,000) that could be used now, whatever there is.
    pub fn slots(&self) -> u64 {
        let of = |g: &Group| {
            let each = u64::from(g.slots).saturating_mul(u64::from(g.nodes.max(1)));
            (g.useful + g.guessed).saturating_mul(each)
        };
        self.groups.iter().map(of).fold(0, u64::saturating_add)
    }

    /// Tasks that are ready or in hand.
    pub fn tasks(&self) -> u64 {
        self.groups.iter().map(|g| g.tasks).sum()
    }
}

/// Work of a group in tasks that are too short for a place each.
#[derive(Default)]
struct Sum {
    group: Group,
    short_ns: u128,
}

/// Whether a task in this state could use a slot now, or does.
pub(super) fn is_ready(state: State) -> bool {
    matches!(state, State::Queued | State::Delayed | State::Processing)
}

impl Core {
    /// How much could run now. Tasks shorter than `min_work` share a place with as many others as fill it: a
    /// place that is not used for so long is not worth its making.
    pub fn demand(&self, min_work: Duration) -> Demand {
        let min_ns = min_work.as_nanos().max(1);
        let mut sums: BTreeMap<(u32, u32, u64), Sum> = BTreeMap::new();
        for run in self.runs.iter().flatten().filter(|run| run.cancelled.is_none()) {
            run.add_demand(min_ns, &mut sums);
        }
        let close = |sum: Sum| {
            let Sum { mut group, short_ns } = sum;
            let shared = u64::try_from(short_ns.div_ceil(min_ns)).unwrap_or(u64::MAX);
            let most = group.tasks - group.guessed;
            group.useful = group.useful.saturating_add(shared).min(most);
            if group.useful + group.guessed == 0 {
                group.useful = 1;
            }
            group
        };
        Demand { groups: sums.into_values().map(close).collect() }
    }
}

impl Run {
    fn add_demand(&self, min_ns: u128, sums: &mut BTreeMap<(u32, u32, u64), Sum>) {
        let mut left = self.max_in_hand();
        let worth = self.worth();
        for (f, family) in self.families.iter().enumerate().filter(|(_, family)| family.ready > 0) {
            let n = u64::from(family.ready).min(left);
            left -= n;
            if n == 0 {
                continue;
            }
            let declared = family.layer.memory.first().copied().unwrap_or(0);
            let result = self.expected_bytes(FamilyIx(f as u32)).unwrap_or(0);
            let memory = declared.saturating_add(result);
            let sum = sums.entry((family.class, family.layer.nodes, memory)).or_default();
            let group = &mut sum.group;
            (group.slots, group.nodes, group.memory) = (family.layer.slots, family.layer.nodes, memory);
            group.resources.clone_from(&family.layer.resources);
            group.tasks += n;
            if self.known_ns(FamilyIx(f as u32)).is_none() {
                group.guessed += n;
                continue;
            }
            let work = u128::from(worth[f]) * u128::from(n);
            group.work_ns += work;
            if u128::from(worth[f]) >= min_ns {
                group.useful += n;
            } else {
                sum.short_ns += work;
            }
        }
    }

    /// How long an element of each family takes, with the elements that come right after it at the same
    /// place, as far as is known.
    fn worth(&self) -> Vec<u64> {
        let along = |p: &Pattern| matches!(p, Pattern::Each | Pattern::Window { .. });
        let shared =
            |f: u32| self.edges.of(FamilyIx(f)).iter().filter(|edge| along(edge.pattern())).count() as u64;
        let shared: Vec<u64> = (0..self.families.len() as u32).map(shared).collect();
        let mut worth = vec![0u64; self.families.len()];
        for f in (0..self.families.len()).rev() {
            let mut sum = self.known_ns(FamilyIx(f as u32)).unwrap_or(0);
            for &(c, e) in self.edges.behind(FamilyIx(f as u32)) {
                if along(self.edges.get(c, e).pattern()) {
                    sum = sum.saturating_add(worth[c.index()] / shared[c.index()].max(1));
                }
            }
            worth[f] = sum;
        }
        worth
    }
}
