//! A static order for graphs of individual tasks: depth-first, so that few results are alive at a time. Owns
//! the walk and its measure, the greatest number of results alive when one task runs after another. Knows no
//! families, sizes or workers.
//!
//! The walk is always somewhere: it holds results that something still needs. It goes on with a task that has
//! begun (one of its inputs is there, or could be made at once), and descends to the first of its missing
//! inputs, and from there on, down to one that has all of its own. Of several missing inputs the one comes
//! first that needs most results at once to be made (as registers are allotted to an expression). What frees
//! an input when it runs is run as soon as it can be, for it costs nothing. What could run and frees nothing
//! waits until somebody asks for it. With which of the tasks that have begun to go on is decided by a rule,
//! and none is right for all graphs: so each is walked, and the walk with the least peak is taken.

use super::layer::Csr;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Sizes are kept in parts of a task, since shared work is divided among those who share it.
const WHOLE: u64 = 1 << 16;

/// Steps per task and edge after which the walk is no longer diverted, so that its time is bounded.
const DIVERTED: usize = 8;

/// How many tasks that wait to be asked for are seen through at once, so that long chains of them cost no
/// more.
const THROUGH: usize = 8;

/// A graph of tasks, walked in both directions. Tasks are numbered from 0 in the order they were written in.
pub struct Dag {
    inputs: Csr,
    users: Csr,
    /// Every task after its inputs.
    levels: Vec<u32>,
}

impl Dag {
    /// The graph in which task i depends on `inputs.row(i)`. The rows name tasks of the graph, each at most
    /// once in a row, and there are no cycles; tasks on a cycle, if any, come last in every order.
    pub fn new(inputs: Csr) -> Dag {
        let n = inputs.offsets.len().saturating_sub(1) as u32;
        let users = inputs.inverse(n);
        let mut missing: Vec<u32> = (0..n).map(|i| inputs.row(i).len() as u32).collect();
        let mut levels: Vec<u32> = (0..n).filter(|&i| missing[i as usize] == 0).collect();
        let mut at = 0;
        while at < levels.len() {
            for &user in users.row(levels[at]) {
                missing[user as usize] -= 1;
                if missing[user as usize] == 0 {
                    levels.push(user);
                }
            }
            at += 1;
        }
        Dag { inputs, users, levels }
    }

    /// Number of tasks.
    pub fn len(&self) -> usize {
        self.inputs.offsets.len().saturating_sub(1)
    }

    /// Whether it has no tasks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Level by level; what is on a cycle comes last.
    fn levels_and_rest(&self) -> Vec<u32> {
        let mut seen = vec![false; self.len()];
        self.levels.iter().for_each(|&i| seen[i as usize] = true);
        let rest = (0..self.len() as u32).filter(|&i| !seen[i as usize]);
        self.levels.iter().copied().chain(rest).collect()
    }

    /// No order has a lower peak: a task needs all of its inputs at once.
    fn least_peak(&self) -> usize {
        self.inputs.offsets.windows(2).map(|w| (w[1] - w[0]) as usize + 1).max().unwrap_or(0)
    }

    /// What task `i` depends on.
    pub fn inputs(&self, i: u32) -> &[u32] {
        self.inputs.row(i)
    }

    /// What depends on task `i`.
    pub fn users(&self, i: u32) -> &[u32] {
        self.users.row(i)
    }
}

/// The tasks in an order in which every one comes after its inputs and few results are alive at a time.
pub fn sequence(dag: &Dag) -> Vec<u32> {
    let mut best: Option<(usize, Vec<u32>)> = None;
    if dag.levels.len() == dag.len() {
        let guide = Guide::new(dag);
        for rule in RULES {
            let limit = best.as_ref().map_or(usize::MAX, |(least, _)| *least);
            let Some((peak, order)) = Walk::new(dag, &guide, rule, limit).run() else { continue };
            best = Some((peak, order));
            if peak <= dag.least_peak() {
                break;
            }
        }
    }
    best.map_or_else(|| dag.levels_and_rest(), |(_, order)| order)
}

/// The greatest number of results alive when the tasks run one after another in this order: those that a
/// later task needs, and the one being made. A result that nothing needs is gone as soon as it is made.
pub fn peak_live(order: &[u32], dag: &Dag) -> usize {
    let mut left: Vec<u32> = (0..dag.len() as u32).map(|i| dag.users(i).len() as u32).collect();
    let (mut alive, mut peak) = (0usize, 0);
    for &i in order {
        peak = peak.max(alive + 1);
        alive += usize::from(left[i as usize] > 0);
        for &input in dag.inputs(i) {
            left[input as usize] -= 1;
            alive -= usize::from(left[input as usize] == 0);
        }
    }
    peak
}

/// With which of the tasks that have begun a walk goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// That which was written first: whoever writes a grid row by row wants to see it swept row by row.
    Written,
    /// That which needs least besides what is there.
    Nearest,
    /// That which began first.
    Oldest,
}

const RULES: [Rule; 3] = [Rule::Written, Rule::Nearest, Rule::Oldest];

/// What the walk goes by; the same for every walk.
struct Guide {
    /// Work before and including a task, each task's divided among its users.
    size: Vec<u64>,
    /// Inputs of each task, that first which needs most results at once.
    first: Csr,
    /// Users of a first task from which on it is something that everybody reads (a constant, a mesh): that
    /// it is there does not mean that all of them have begun.
    common: usize,
}

impl Guide {
    fn new(dag: &Dag) -> Guide {
        let n = dag.len();
        let (mut size, mut need) = (vec![WHOLE; n], vec![1u32; n]);
        let mut first = dag.inputs.clone();
        for &i in &dag.levels {
            let range = first.offsets[i as usize] as usize..first.offsets[i as usize + 1] as usize;
            let row = &mut first.targets[range];
            row.sort_by_key(|&j| (Reverse(need[j as usize]), j));
            for (before, &j) in row.iter().enumerate() {
                let j = j as usize;
                size[i as usize] += size[j] / dag.users(j as u32).len() as u64;
                need[i as usize] = need[i as usize].max(need[j] + before as u32);
            }
            need[i as usize] = need[i as usize].max(row.len() as u32 + 1);
        }
        let firsts = (0..n as u32).filter(|&i| dag.inputs(i).is_empty());
        let (count, users) = firsts.fold((0, 0), |(c, u), i| (c + 1, u + dag.users(i).len()));
        Guide { size, first, common: 2 * users / count.max(1) }
    }
}

/// A task that could be gone on with: whether it has not begun, by what the rule goes, the work that was
/// missing when it was listed, and itself.
type Candidate = Reverse<(bool, (u64, u64), u64, u32)>;

/// The state of one walk.
struct Walk<'a> {
    dag: &'a Dag,
    guide: &'a Guide,
    rule: Rule,
    order: Vec<u32>,
    /// Results alive, and the most there were so far.
    alive: usize,
    peak: usize,
    /// A walk whose peak reaches this is given up.
    limit: usize,
    done: Vec<bool>,
    /// Tasks that are among the candidates as begun: by the rule `Written` they need not be listed again.
    listed: Vec<bool>,
    /// Inputs that are not there: how many, and the work they are.
    missing: Vec<u32>,
    besides: Vec<u64>,
    /// The work a task is, for its users, as long as it is not done.
    rest: Vec<u64>,
    /// When a task began: how many were done.
    begun: Vec<u64>,
    /// Users that are not done: how many, and the exclusive or of their numbers (the last one's own).
    left: Vec<u32>,
    last: Vec<u32>,
    /// The first entry in the guide's row that may be missing.
    next: Vec<u32>,
    candidates: BinaryHeap<Candidate>,
    /// What is being descended from, innermost last.
    path: Vec<u32>,
    /// What can run and frees something.
    free: Vec<u32>,
    /// Tasks that are being listed.
    through: Vec<u32>,
}

impl<'a> Walk<'a> {
    fn new(dag: &'a Dag, guide: &'a Guide, rule: Rule, limit: usize) -> Walk<'a> {
        let tasks = || 0..dag.len() as u32;
        let besides = |i: u32| dag.inputs(i).iter().map(|&j| guide.size[j as usize]).sum();
        let besides: Vec<u64> = tasks().map(besides).collect();
        // Where nothing has begun, the smallest whole goes first.
        let sinks = tasks().filter(|&i| dag.users(i).is_empty());
        let fresh = |i: u32| Reverse((true, (besides[i as usize], 0), besides[i as usize], i));
        Walk {
            dag,
            guide,
            rule,
            order: Vec::with_capacity(dag.len()),
            alive: 0,
            peak: 0,
            limit,
            done: vec![false; dag.len()],
            listed: vec![false; dag.len()],
            missing: tasks().map(|i| dag.inputs(i).len() as u32).collect(),
            rest: guide.size.clone(),
            begun: vec![u64::MAX; dag.len()],
            left: tasks().map(|i| dag.users(i).len() as u32).collect(),
            last: tasks().map(|i| dag.users(i).iter().fold(0, |x, u| x ^ u)).collect(),
            next: vec![0; dag.len()],
            candidates: sinks.map(fresh).collect(),
            besides,
            path: Vec::new(),
            free: Vec::new(),
            through: Vec::new(),
        }
    }

    /// The greatest number of results alive and the order; `None` if it is no better than the limit.
    fn run(mut self) -> Option<(usize, Vec<u32>)> {
        let mut steps = DIVERTED * (self.dag.len() + self.dag.inputs.targets.len());
        loop {
            while let Some(i) = self.free.pop() {
                self.take(i);
            }
            if self.peak >= self.limit {
                return None;
            }
            while self.path.last().is_some_and(|&i| self.done[i as usize]) {
                self.path.pop();
            }
            steps = steps.saturating_sub(1);
            if (steps > 0 || self.path.is_empty())
                && let Some(better) = self.divert()
            {
                self.path.push(better);
            }
            let Some(&i) = self.path.last() else { return Some((self.peak, self.order)) };
            match self.first_missing(i) {
                Some(input) => self.path.push(input),
                None => self.take(i),
            }
        }
    }

    fn key(&self, i: u32) -> (u64, u64) {
        let (besides, begun) = (self.besides[i as usize], self.begun[i as usize]);
        match self.rule {
            Rule::Written => (u64::from(i), 0),
            Rule::Nearest => (besides, begun),
            Rule::Oldest => (begun, besides),
        }
    }

    /// A task that goes before the one being descended from.
    fn divert(&mut self) -> Option<u32> {
        loop {
            let &Reverse((fresh, key, besides, i)) = self.candidates.peek()?;
            // Every change lists a task again; only the last entry counts.
            let changed = besides != self.besides[i as usize];
            let stale = self.done[i as usize] || changed && (fresh || !self.stays_listed(i));
            let here = self.path.last().map(|&p| self.key(p).0);
            if !stale && here.is_some_and(|here| fresh || here <= key.0) {
                return None;
            }
            self.candidates.pop();
            self.listed[i as usize] &= fresh;
            if !stale {
                return Some(i);
            }
        }
    }

    /// Whether an entry of a task that has begun holds whatever changes, until it is done.
    fn stays_listed(&self, i: u32) -> bool {
        let waits = self.dag.inputs(i).len() > 1 && self.missing[i as usize] > 0;
        self.rule == Rule::Written && (waits || self.dag.users(i).is_empty())
    }

    fn first_missing(&mut self, i: u32) -> Option<u32> {
        let row = self.guide.first.row(i);
        let next = &mut self.next[i as usize];
        while let Some(&input) = row.get(*next as usize) {
            if !self.done[input as usize] {
                return Some(input);
            }
            *next += 1;
        }
        None
    }

    /// Runs a task, and lists what that brings nearer.
    fn take(&mut self, i: u32) {
        if std::mem::replace(&mut self.done[i as usize], true) {
            return;
        }
        self.order.push(i);
        let dag = self.dag;
        self.peak = self.peak.max(self.alive + 1);
        self.alive += usize::from(!dag.users(i).is_empty());
        for &input in dag.inputs(i) {
            let at = input as usize;
            self.left[at] -= 1;
            self.alive -= usize::from(self.left[at] == 0);
            self.last[at] ^= i;
            if self.left[at] == 1 && self.missing[self.last[at] as usize] == 0 {
                self.free.push(self.last[at]);
            }
        }
        let begins = !dag.inputs(i).is_empty() || dag.users(i).len() <= self.guide.common;
        for &user in dag.users(i).iter().rev() {
            let at = user as usize;
            self.missing[at] -= 1;
            self.besides[at] -= self.rest[i as usize];
            if self.missing[at] == 0 && self.costs_nothing(user) {
                self.free.push(user);
            } else {
                self.list(user, begins);
            }
        }
    }

    /// Lists a task that has begun. What could run but frees nothing (a slice of something larger) is worth
    /// making when somebody asks for it, so its users are listed instead, with less to do than before.
    /// Without `begins` only what is known of them changes.
    fn list(&mut self, i: u32, begins: bool) {
        let (dag, now) = (self.dag, self.order.len() as u64);
        self.through.push(i);
        let mut seen = 0;
        while let Some(i) = self.through.pop() {
            let at = i as usize;
            seen += 1;
            let waits = seen > THROUGH || dag.inputs(i).len() > 1 && self.missing[at] > 0;
            if waits || dag.users(i).is_empty() {
                if begins {
                    self.begun[at] = self.begun[at].min(now);
                }
                let besides = self.besides[at];
                if self.begun[at] < u64::MAX {
                    let listed = std::mem::replace(&mut self.listed[at], true);
                    if !listed || !self.stays_listed(i) {
                        self.candidates.push(Reverse((false, self.key(i), besides, i)));
                    }
                } else if dag.users(i).is_empty() {
                    self.candidates.push(Reverse((true, (besides, 0), besides, i)));
                }
                continue;
            }
            let rest = (WHOLE + self.besides[at]).min(self.rest[at]);
            let less = std::mem::replace(&mut self.rest[at], rest) - rest;
            for &user in dag.users(i).iter().rev() {
                self.besides[user as usize] -= less;
                self.through.push(user);
            }
        }
    }

    /// Whether no more results are alive after a task that can run than before it.
    fn costs_nothing(&self, i: u32) -> bool {
        self.left[i as usize] == 0 || self.dag.inputs(i).iter().any(|&j| self.left[j as usize] == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dag(rows: &[Vec<u32>]) -> Dag {
        let mut csr = Csr { offsets: vec![0], targets: Vec::new() };
        for row in rows {
            csr.targets.extend(row);
            csr.offsets.push(csr.targets.len() as u32);
        }
        Dag::new(csr)
    }

    #[test]
    fn the_peak_counts_what_is_needed_later_and_what_is_made() {
        let dag = dag(&[vec![], vec![], vec![0, 1], vec![2], vec![]]);
        assert_eq!(peak_live(&[0, 1, 2, 3, 4], &dag), 3);
        assert_eq!(peak_live(&[4], &self::dag(&[vec![], vec![], vec![], vec![], vec![]])), 1);
        assert_eq!(peak_live(&[], &self::dag(&[])), 0);
    }

    #[test]
    fn a_walk_knows_its_peak() {
        let rows: Vec<Vec<u32>> = (0..60u32)
            .map(|i| if i < 6 { vec![] } else { [i - 6, i - 5 - i % 2].into_iter().collect() })
            .collect();
        let dag = dag(&rows);
        let guide = Guide::new(&dag);
        for rule in RULES {
            let (peak, order) = Walk::new(&dag, &guide, rule, usize::MAX).run().unwrap();
            assert_eq!(peak, peak_live(&order, &dag));
            assert_eq!(Walk::new(&dag, &guide, rule, peak).run(), None);
        }
    }

    #[test]
    fn a_chain_is_finished_before_the_next_is_begun() {
        let dag = dag(&[vec![], vec![], vec![0], vec![1], vec![2], vec![3], vec![4, 5]]);
        assert_eq!(sequence(&dag), [0, 2, 4, 1, 3, 5, 6]);
    }

    #[test]
    fn the_input_that_needs_most_at_once_comes_first() {
        // 3 needs three at once, 4 one: 4's result would lie about meanwhile.
        let dag = dag(&[vec![], vec![], vec![], vec![0, 1, 2], vec![], vec![4, 3]]);
        let order = sequence(&dag);
        assert_eq!(order[4..], [4, 5]);
        assert_eq!(peak_live(&order, &dag), 4);
    }

    #[test]
    fn long_chains_with_ends_at_every_step_take_no_time() {
        let n = 50_000;
        let chain = (0..n).map(|i| if i == 0 { vec![] } else { vec![i - 1] });
        let rows: Vec<Vec<u32>> = chain.chain((0..n).map(|i| vec![i])).collect();
        let dag = dag(&rows);
        let order = sequence(&dag);
        assert_eq!((order.len(), peak_live(&order, &dag)), (2 * n as usize, 2));
    }

    #[test]
    fn a_cycle_comes_last_and_ends_nothing() {
        let dag = dag(&[vec![], vec![2], vec![1], vec![0]]);
        assert_eq!(sequence(&dag), [0, 3, 1, 2]);
    }
}
