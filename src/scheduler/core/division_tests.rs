//! That domains are given out as a plain look at all of them would, and without looking at all of them.

use super::*;

/// What is walked, however the next domain is found.
trait Walked {
    fn domain(&mut self, w: WorkerId, stretch: Option<u32>) -> Option<usize>;
    fn front(&mut self) -> Option<usize>;
    fn at(&mut self, at: usize) -> &mut Domain;
    fn remove(&mut self, at: usize);
    fn disown(&mut self, w: WorkerId);
}

impl Walked for Division {
    fn domain(&mut self, w: WorkerId, stretch: Option<u32>) -> Option<usize> {
        Division::domain(self, w, |_| stretch)
    }
    fn front(&mut self) -> Option<usize> {
        Division::front(self)
    }
    fn at(&mut self, at: usize) -> &mut Domain {
        self.walk(at).1
    }
    fn remove(&mut self, at: usize) {
        Division::remove(self, at);
    }
    fn disown(&mut self, w: WorkerId) {
        Division::disown(self, w);
    }
}

/// Looks at all domains whenever one is chosen.
struct Plain {
    totals: Vec<u32>,
    domains: Vec<Domain>,
    /// The first one, until it is removed or another divided.
    front: Option<usize>,
}

impl Walked for Plain {
    fn domain(&mut self, w: WorkerId, stretch: Option<u32>) -> Option<usize> {
        if let Some(at) = self.domains.iter().position(|d| d.owner == Some(w)) {
            return Some(at);
        }
        let free = (0..self.domains.len()).filter(|&d| self.domains[d].owner.is_none());
        let at = match free.min_by_key(|&d| self.domains[d].left[0].start) {
            Some(at) => {
                let rest = stretch.and_then(|stretch| self.domains[at].cut(stretch));
                self.domains.extend(rest);
                at
            }
            None => {
                let largest = (0..self.domains.len()).max_by_key(|&d| self.domains[d].len())?;
                if self.domains[largest].left.iter().all(|r| r.len() < 2) {
                    largest
                } else {
                    let half = self.domains[largest].split(&self.totals);
                    self.domains.push(half);
                    self.front = None;
                    self.domains.len() - 1
                }
            }
        };
        self.domains[at].owner = Some(w);
        Some(at)
    }
    fn front(&mut self) -> Option<usize> {
        let start = |d: &usize| (self.domains[*d].left[0].start, self.domains[*d].left[0].end);
        self.front = self.front.or_else(|| (0..self.domains.len()).min_by_key(start));
        self.front
    }
    fn at(&mut self, at: usize) -> &mut Domain {
        &mut self.domains[at]
    }
    fn remove(&mut self, at: usize) {
        self.front = None;
        self.domains.swap_remove(at);
    }
    fn disown(&mut self, w: WorkerId) {
        self.domains.iter_mut().filter(|d| d.owner == Some(w)).for_each(|d| d.owner = None);
    }
}

/// A division and what has been given out of it, by row.
struct Walk<D> {
    of: D,
    given: Vec<Vec<bool>>,
}

impl<D: Walked> Walk<D> {
    fn new(of: D, totals: &[u32]) -> Walk<D> {
        Walk { of, given: totals.iter().map(|&n| vec![false; n as usize]).collect() }
    }

    /// The next element for a worker, by row; it is not given out by that.
    fn look(&mut self, w: WorkerId, stretch: Option<u32>) -> Option<(usize, u32)> {
        loop {
            let at = self.of.domain(w, stretch)?;
            let Domain { backwards, left, .. } = self.of.at(at);
            let mut best: Option<(u64, (usize, u32))> = None;
            for (k, range) in left.iter_mut().enumerate() {
                while edge_of(range, *backwards).is_some_and(|e| self.given[k][e as usize]) {
                    narrow(range, *backwards);
                }
                let Some(e) = edge_of(range, *backwards) else { continue };
                let position = (u64::from(e) << 32) / self.given[k].len() as u64;
                let rank = if *backwards { u64::MAX - position } else { position };
                if best.is_none_or(|(r, _)| rank < r) {
                    best = Some((rank, (k, e)));
                }
            }
            match best {
                Some((_, next)) => return Some(next),
                None => self.of.remove(at),
            }
        }
    }

    /// The first element of a single row.
    fn first(&mut self) -> Option<(usize, u32)> {
        loop {
            let at = self.of.front()?;
            let left = &mut self.of.at(at).left[0];
            while let Some(e) = edge_of(left, false) {
                if !self.given[0][e as usize] {
                    return Some((0, e));
                }
                narrow(left, false);
            }
            self.of.remove(at);
        }
    }

    fn give(&mut self, (k, e): (usize, u32)) {
        self.given[k][e as usize] = true;
    }
}

/// Workers come, look, are given what they found or not, and go; elements are cancelled.
fn compare(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let totals: Vec<u32> = (0..[1, 1, 2, 4][rng.usize(0..4)]).map(|_| rng.u32(1..60)).collect();
    let workers = rng.u32(1..20);
    let singles = totals.len() == 1 && rng.bool();
    let left = totals.iter().map(|total| 0..*total).collect();
    let domains = vec![Domain { left, ..Domain::default() }];
    let plain = Plain { totals: totals.clone(), domains, front: None };
    let mut plain = Walk::new(plain, &totals);
    let mut listed = Walk::new(Division::whole(&totals), &totals);
    for step in 0..400 {
        let (w, stretch) = (WorkerId(rng.u32(0..workers)), singles.then(|| rng.u32(1..6)));
        let kind = rng.u32(0..10);
        let next = match kind {
            0 => {
                plain.of.disown(w);
                listed.of.disown(w);
                None
            }
            1 => {
                let k = rng.usize(0..totals.len());
                let cancelled = (k, rng.u32(0..totals[k]));
                plain.give(cancelled);
                listed.give(cancelled);
                None
            }
            2 | 3 if singles => {
                let (should, is) = (plain.first(), listed.first());
                assert_eq!(is, should, "seed {seed}, step {step}: the first one");
                is
            }
            _ => {
                let (should, is) = (plain.look(w, stretch), listed.look(w, stretch));
                assert_eq!(is, should, "seed {seed}, step {step}: the next one of worker {w}");
                is
            }
        };
        if let Some(next) = next.filter(|_| rng.u32(0..4) > 0) {
            plain.give(next);
            listed.give(next);
        }
        assert_eq!(listed.of.domains.0, plain.of.domains, "seed {seed}, step {step}");
        listed.of.check().unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}"));
    }
}

#[test]
fn domains_are_chosen_as_by_looking_at_all() {
    (0..300).for_each(compare);
}

/// How many domains are looked at for each element that is given out, when all workers walk at the same pace.
fn looks(workers: u32, totals: &[u32], stretch: Option<u32>) -> f64 {
    let mut walk = Walk::new(Division::whole(totals), totals);
    let mut given = 0;
    let mut round = || {
        let before = given;
        for w in (0..workers).map(WorkerId) {
            if let Some(next) = walk.look(w, stretch) {
                walk.give(next);
                given += 1;
            }
        }
        given > before
    };
    while round() {}
    assert_eq!(given, totals.iter().sum::<u32>(), "all are given out, each once");
    walk.of.domains.1.get() as f64 / f64::from(given)
}

#[test]
fn no_more_domains_are_looked_at_where_more_workers_walk() {
    for (what, each, stretch) in
        [("single tasks", 8, Some(1)), ("stretches", 32, Some(4)), ("halves", 8, None)]
    {
        let [few, many] = [8, 2048].map(|workers| looks(workers, &[each * workers], stretch));
        assert!(
            many < few.max(1.0) * 2.0 && many < 16.0,
            "{what}: {few:.1} looks, of many workers {many:.1}"
        );
    }
    let [few, many] = [8, 2048].map(|workers| looks(workers, &[workers * 8, workers * 3], None));
    assert!(many < few.max(1.0) * 2.0 && many < 16.0, "two rows: {few:.1} looks, of many workers {many:.1}");
    // Fewer elements than workers: those of others are taken over.
    let [few, many] = [8, 2048].map(|workers| looks(workers, &[workers / 2], None));
    assert!(many < few.max(1.0) * 2.0 && many < 16.0, "few elements: {few:.1} looks, many {many:.1}");
}

fn ranges(division: &Division, at: usize) -> Vec<Range<u32>> {
    division.domains.0[at].left.clone()
}

#[test]
fn a_worker_without_a_domain_gets_the_far_half_of_the_largest() {
    let mut division = Division::whole(&[16]);
    division.add(8);
    assert_eq!(division.domain(WorkerId(0), |_| None), Some(0));
    assert_eq!(division.domain(WorkerId(1), |_| None), Some(1));
    assert_eq!(ranges(&division, 0), [0..8, 0..4]);
    assert_eq!((ranges(&division, 1), division.domains.0[1].backwards), (vec![8..16, 4..8], true));
    // The second walks down; what is far from it is where it would end, beside the first one's end.
    division.walk(0).1.left = vec![6..8, 3..4];
    assert_eq!(division.domain(WorkerId(2), |_| None), Some(2));
    assert_eq!((ranges(&division, 2), division.domains.0[2].backwards), (vec![8..12, 4..6], false));
    assert_eq!(ranges(&division, 1), [12..16, 6..8]);
}

#[test]
fn what_is_left_behind_is_taken_over() {
    let mut division = Division::whole(&[1]);
    assert_eq!(division.domain(WorkerId(3), |_| None), Some(0));
    // A single element cannot be divided.
    assert_eq!(division.domain(WorkerId(4), |_| None), Some(0));
    assert_eq!(division.of.get(&WorkerId(3)), None);
    division.disown(WorkerId(4));
    assert_eq!(division.domain(WorkerId(5), |_| None), Some(0));
    division.remove(0);
    assert_eq!((division.domain(WorkerId(5), |_| None), division.of.len()), (None, 0));
}

#[test]
fn tasks_of_their_own_are_given_out_in_stretches_and_the_last_one_is_divided() {
    let mut division = Division::whole(&[10]);
    let mut next = |w: u32| {
        let at = division.domain(WorkerId(w), |_| Some(4)).unwrap();
        let range = division.domains.0[at].left[0].clone();
        division.remove(at);
        (range, division.front().map(|d| division.domains.0[d].left[0].start))
    };
    assert_eq!(next(0), (0..4, Some(4)));
    assert_eq!(next(1), (4..8, Some(8)));
    assert_eq!(next(0), (8..10, None));
    let mut division = Division::whole(&[2]);
    assert_eq!(division.domain(WorkerId(0), |_| Some(4)), Some(0));
    assert_eq!((division.domain(WorkerId(1), |_| Some(4)), division.front()), (Some(1), Some(0)));
    let left = |d: usize| division.domains.0[d].left[0].clone();
    assert_eq!((left(0), left(1)), (0..1, 1..2));
}
