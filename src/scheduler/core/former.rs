//! Forms groups of consecutive elements by the bytes of their results, as these become known. Owns the groups
//! of one edge; not the tasks that will consume them.

use std::ops::Range;

/// The groups of one edge. A group is closed as soon as it reaches the aim and as much again is known to
/// follow, so that the last groups come out even; elements without bytes belong to no group of their own.
#[derive(Clone, Debug)]
pub(super) struct Former {
    aim: u64,
    /// Sizes of the elements that are known but not yet in a group, from `next` on.
    sizes: Vec<Option<u64>>,
    /// First element that is in no group.
    next: u32,
    /// How many of `sizes` (a prefix) are known, and their sum.
    known: usize,
    known_bytes: u128,
    /// Ends of the groups formed; a group begins where the one before it ends.
    ends: Vec<u32>,
}

impl Former {
    pub(super) fn new(aim: u64, elements: u32) -> Former {
        Former {
            aim: aim.max(1),
            sizes: vec![None; elements as usize],
            next: 0,
            known: 0,
            known_bytes: 0,
            ends: Vec::new(),
        }
    }

    /// The elements of a group, those without bytes included.
    pub(super) fn group(&self, g: u32) -> Range<u32> {
        let start = if g == 0 { 0 } else { self.ends[g as usize - 1] };
        start..self.ends[g as usize]
    }

    /// The group an element is in, if it has been formed.
    pub(super) fn group_of(&self, j: u32) -> Option<u32> {
        let g = self.ends.partition_point(|&end| end <= j);
        (g < self.ends.len()).then_some(g as u32)
    }

    /// Whether an element's result is known to be empty.
    pub(super) fn is_empty(&self, j: u32) -> bool {
        self.sizes[j as usize] == Some(0)
    }

    /// First element that is in no group yet.
    pub(super) fn grouped(&self) -> u32 {
        self.next
    }

    /// Whether every element is in a group (or known to be empty behind the last one).
    pub(super) fn is_complete(&self) -> bool {
        self.next as usize == self.sizes.len()
    }

    /// Notes the size of an element's result and returns how many groups that forms. A failed element counts
    /// as one byte, so that some group holds it and fails with it.
    pub(super) fn note(&mut self, j: u32, bytes: u64) -> usize {
        let size = &mut self.sizes[j as usize];
        if size.is_some() {
            return 0;
        }
        *size = Some(bytes);
        while let Some(Some(bytes)) = self.sizes.get(self.known) {
            self.known_bytes += u128::from(*bytes);
            self.known += 1;
        }
        let before = self.ends.len();
        while self.known_bytes >= u128::from(self.aim) * 2 {
            self.cut(self.aim.into());
        }
        if self.known == self.sizes.len() {
            self.finish();
        }
        self.ends.len() - before
    }

    /// Groups what is left, in equal parts.
    fn finish(&mut self) {
        while self.known_bytes > 0 {
            let parts = self.known_bytes.div_ceil(self.aim.into());
            self.cut(self.known_bytes.div_ceil(parts));
        }
        self.next = self.sizes.len() as u32;
    }

    /// Closes a group at the element boundary nearest to `bytes`.
    fn cut(&mut self, bytes: u128) {
        let mut sum = 0;
        let mut end = self.next as usize;
        while end < self.known {
            let size = u128::from(self.sizes[end].unwrap_or(0));
            // Taking the element that crosses the aim is right when leaving it out misses by more.
            if sum > 0 && size > 0 && sum + size > bytes && sum + size - bytes > bytes.saturating_sub(sum) {
                break;
            }
            sum += size;
            end += 1;
            if sum >= bytes {
                break;
            }
        }
        self.known_bytes -= sum;
        self.next = end as u32;
        self.ends.push(end as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(aim: u64, sizes: &[u64]) -> Vec<u64> {
        let mut former = Former::new(aim, sizes.len() as u32);
        let mut formed = 0;
        // An order that is not ascending: odd elements first.
        let odd = (0..sizes.len()).filter(|i| i % 2 == 1);
        for j in odd.chain((0..sizes.len()).filter(|i| i % 2 == 0)) {
            formed += former.note(j as u32, sizes[j]);
        }
        assert!(former.is_complete());
        assert_eq!(formed, former.ends.len());
        (0..formed as u32).map(|g| former.group(g).map(|j| sizes[j as usize]).sum()).collect()
    }

    #[test]
    fn groups_fill_evenly_and_none_is_empty() {
        assert_eq!(groups(100, &[0; 50]), Vec::<u64>::new());
        assert_eq!(groups(100, &[10; 35]), [100, 100, 80, 70]);
        assert_eq!(groups(100, &[0, 0, 5, 0, 0]), [5]);
        assert_eq!(groups(100, &[500, 1, 1]), [500, 2]);
        let sparse: Vec<u64> = (0..400).map(|i| if i % 7 == 0 { i } else { 0 }).collect();
        let formed = groups(2000, &sparse);
        assert_eq!(formed.iter().sum::<u64>(), sparse.iter().sum::<u64>());
        assert!(formed.iter().all(|&g| (1500..2500).contains(&g)), "{formed:?}");
    }

    #[test]
    fn elements_find_their_group() {
        let mut former = Former::new(10, 6);
        assert_eq!(former.note(0, 10), 0);
        assert_eq!(former.note(1, 10), 1);
        assert_eq!((former.group_of(0), former.group_of(1)), (Some(0), None));
        for j in 2..6 {
            former.note(j, 0);
        }
        assert!(former.is_complete());
        assert_eq!(former.group_of(1), Some(1));
    }
}
