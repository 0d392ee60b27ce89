//! Where time has gone on workers that are gone: the profiles that they have left, as one. Owns their sum and
//! its bounds.

use crate::base::ids::{RunId, RunUuid};
use crate::protocol::profile::{Commands, Merged, Profile};
use std::collections::BTreeMap;

/// Places in stacks that are kept, of all gone workers together.
const NODES_MAX: usize = 5000;

/// Trees of stacks, by run and group: with more, runs are kept apart no longer.
const TREES_MAX: usize = 1000;

/// Commands' families that are kept, by run.
const COMMANDS_MAX: usize = 5000;

/// What gone workers have left.
#[derive(Debug, Default)]
pub(super) struct Past {
    stacks: Merged,
    commands: BTreeMap<(Option<RunId>, String), Commands>,
    workers: usize,
}

impl Past {
    /// Adds what a worker has left.
    pub(super) fn add(&mut self, mut profile: Profile) {
        for commands in std::mem::take(&mut profile.commands) {
            let mut key = (commands.run, commands.name.clone());
            if self.commands.len() >= COMMANDS_MAX && !self.commands.contains_key(&key) {
                key.0 = None;
                if self.commands.len() >= 2 * COMMANDS_MAX {
                    continue;
                }
            }
            self.commands.entry(key).or_default().add(&commands);
        }
        self.workers += 1;
        if profile.groups.is_empty() {
            return;
        }
        self.stacks.add(&profile, None);
        self.stacks.forget_runs(TREES_MAX);
        // Frames that nothing refers to any more go with the nodes.
        let kept = self.stacks.to_profile(NODES_MAX);
        self.stacks = Merged::default();
        self.stacks.add(&kept, None);
    }

    /// Adds everything, or what is of a run, to what others say. How many workers it is of.
    pub(super) fn tell(&self, run: Option<(RunId, RunUuid)>, all: &mut Merged) -> usize {
        if self.workers == 0 {
            return 0;
        }
        let mut own = self.stacks.to_profile(usize::MAX);
        let wanted = self.commands.iter().filter(|((of, _), _)| run.is_none_or(|(run, _)| *of == Some(run)));
        own.commands = wanted.map(|((_, name), c)| Commands { name: name.clone(), ..c.clone() }).collect();
        all.add(&own, run.map(|(_, uuid)| uuid));
        self.workers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::profile::Stacks;

    fn profile(worker: u32, run: u128) -> Profile {
        let frames = (0..200).map(|n| (format!("f{worker}.{n}"), "a.py".into(), n)).collect();
        let nodes = (0..200).map(|n| (-1, n, u64::from(n) + 1)).collect();
        let groups = vec![Stacks { run: Some(RunUuid::from_u128(run)), name: "inc".into(), nodes }];
        let run = Some(RunId(run as u32));
        let commands =
            vec![Commands { run, name: "sort".into(), count: 1, user: 2.0, ..Commands::default() }];
        Profile { interval: 0.05, frames, groups, commands }
    }

    fn told(past: &Past, run: Option<u32>) -> (u64, u64) {
        let mut all = Merged::default();
        past.tell(run.map(|n| (RunId(n), RunUuid::from_u128(n.into()))), &mut all);
        let answer = all.to_json(None);
        let groups = answer["groups"].as_array().unwrap();
        let count = groups.iter().filter_map(|g| g["commands"]["count"].as_u64()).sum();
        (answer["samples"].as_u64().unwrap(), count)
    }

    #[test]
    fn what_gone_workers_have_left_is_one_and_bounded() {
        let mut past = Past::default();
        assert_eq!(told(&past, None), (0, 0));
        past.add(profile(1, 7));
        past.add(profile(2, 7));
        past.add(profile(3, 8));
        assert_eq!(
            (told(&past, None), told(&past, Some(8)), told(&past, Some(9))),
            ((60300, 3), (20100, 1), (0, 0))
        );
        (0..40).for_each(|n| past.add(profile(n, 7)));
        let kept = past.stacks.to_profile(usize::MAX);
        assert!(
            kept.frames.len() <= NODES_MAX && kept.groups[0].nodes.len() <= NODES_MAX,
            "{}",
            kept.frames.len()
        );
        (0..20_000).for_each(|n| {
            let commands = vec![Commands { run: Some(RunId(n)), name: "sort".into(), ..Commands::default() }];
            past.add(Profile { commands, ..Profile::default() });
        });
        assert!(past.commands.len() <= COMMANDS_MAX + 1, "{}", past.commands.len());
    }
}
