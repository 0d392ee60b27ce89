//! Which of a worker's GPUs each task has. Owns the devices that the worker was started with and the
//! variables by which CUDA, ROCm and Level Zero programs are told of theirs; that no more tasks come than
//! there are GPUs for is the scheduler's business.

use super::environment::WorkerFacts;
use crate::graph::layer::SLOT;
use crate::worker::executor::control::Control;
use std::ffi::OsStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A whole device, 1/10,000.
const WHOLE: u32 = SLOT;
/// How often a task looks again for devices that others still have.
const LOOK: Duration = Duration::from_millis(20);
/// Variables that name visible devices. The last counts only where the job has set it.
const VISIBLE: [&str; 4] =
    ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"];

/// A worker's GPUs.
#[derive(Debug, Default)]
pub struct Devices {
    /// For each variable the names of the devices, in order; empty where it is not set for tasks.
    names: Vec<(&'static str, Vec<String>)>,
    /// What is left of each device, 1/10,000.
    left: Mutex<Vec<u32>>,
}

/// The GPUs of a task, until it is dropped.
#[derive(Debug)]
pub struct Taken<'a> {
    devices: &'a Devices,
    /// Device and amount, ascending.
    parts: Vec<(usize, u32)>,
}

impl Devices {
    /// Those that a worker offers: the ones the batch system has given it, by the variables it was started
    /// with, else numbered from 0.
    pub fn of(facts: &WorkerFacts) -> Devices {
        let n = usize::try_from(facts.gpus / u64::from(WHOLE)).unwrap_or(0).min(1024);
        let given = |name: &str| -> Vec<String> {
            let value = facts.env.vars().get(OsStr::new(name)).map(|v| v.to_string_lossy().into_owned());
            let names = value.unwrap_or_default();
            names.split(',').map(|part| part.trim().to_string()).filter(|part| !part.is_empty()).collect()
        };
        let listed: Vec<_> = VISIBLE.into_iter().map(|name| (name, given(name))).collect();
        let any = listed.iter().any(|(_, names)| !names.is_empty());
        let numbered: Vec<String> = (0..n).map(|k| k.to_string()).collect();
        // ROCm counts HIP's devices among those that ROCR leaves: only one of the two may be set.
        let plain = ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"];
        let usual = |name: &str| if !any && plain.contains(&name) { numbered.clone() } else { Vec::new() };
        let names = listed.into_iter().map(|(name, names)| {
            let names = if names.is_empty() { usual(name) } else { names };
            if !names.is_empty() && names.len() < n {
                tracing::warn!("the worker offers {n} GPUs, {name} has {}: {}", names.len(), names.join(","));
            }
            (name, names)
        });
        let names = if n > 0 { names.filter(|(_, names)| !names.is_empty()).collect() } else { Vec::new() };
        Devices { names, left: Mutex::new(vec![WHOLE; n]) }
    }

    fn left(&self) -> MutexGuard<'_, Vec<u32>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// GPUs for a task, waiting for those that one which was ended still has; `None` if the task is to end
    /// first. A worker that does not say how many it has gives none out.
    pub fn take(&self, amount: u64, control: &Control) -> Option<Taken<'_>> {
        loop {
            if let Some(parts) = self.find(amount) {
                return Some(Taken { devices: self, parts });
            }
            if control.sleep(LOOK) {
                return None;
            }
        }
    }

    /// Whole devices, then a part of one that has the least left of those that have enough.
    fn find(&self, amount: u64) -> Option<Vec<(usize, u32)>> {
        let mut left = self.left();
        let amount = u32::try_from(amount).unwrap_or(u32::MAX);
        // What the worker does not have the scheduler has not given out.
        if left.is_empty() || amount == 0 || u64::from(amount) > left.len() as u64 * u64::from(WHOLE) {
            return Some(Vec::new());
        }
        let whole = (amount / WHOLE) as usize;
        let mut parts: Vec<_> =
            (0..left.len()).filter(|&k| left[k] == WHOLE).take(whole).map(|k| (k, WHOLE)).collect();
        let rest = amount % WHOLE;
        if parts.len() < whole {
            return None;
        }
        if rest > 0 {
            let taken = |k: &usize| parts.iter().any(|(x, _)| x == k);
            let fit = (0..left.len()).filter(|k| left[*k] >= rest && !taken(k)).min_by_key(|&k| left[k])?;
            parts.push((fit, rest));
        }
        parts.sort_unstable();
        parts.iter().for_each(|&(k, n)| left[k] -= n);
        Some(parts)
    }
}

impl Taken<'_> {
    /// The variables that say so. A task that asks for no GPU, on a worker that offers some, sees none.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let list = |names: &Vec<String>| {
            let own = self.parts.iter().filter_map(|(k, _)| names.get(*k).cloned());
            own.collect::<Vec<_>>().join(",")
        };
        self.devices.names.iter().map(|(name, names)| (*name, list(names))).collect()
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut left = self.devices.left();
        self.parts.iter().for_each(|&(k, n)| left[k] += n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::executor::variables::Shared;
    use std::sync::Arc;

    fn devices(env: &[(&str, &str)], gpus: u64) -> Devices {
        Devices::of(&WorkerFacts {
            name: "w".into(),
            scheduler_file: None,
            local_directory: "/".into(),
            shell: vec![],
            env: Arc::new(Shared::of(env.iter().map(|(name, value)| (name.into(), value.into())).collect())),
            umask: 0o22,
            host: "h".into(),
            launcher: vec![],
            gpus: gpus * u64::from(WHOLE),
        })
    }

    fn cuda(taken: &Taken<'_>) -> String {
        let variables = taken.variables();
        variables.iter().find(|(name, _)| *name == "CUDA_VISIBLE_DEVICES").expect("set").1.clone()
    }

    #[test]
    fn no_two_tasks_have_the_same_whole_device_and_parts_share_one() {
        let devices = devices(&[("CUDA_VISIBLE_DEVICES", "2,GPU-5,7")], 3);
        let control = Control::new().unwrap();
        let take = |amount| devices.take(amount, &control).expect("there is one");
        let (half, one) = (take(5000), take(10_000));
        assert_eq!((cuda(&half), cuda(&one)), ("2".to_string(), "GPU-5".to_string()));
        let other_half = take(5000);
        assert_eq!(cuda(&other_half), "2", "parts fill what is begun");
        let last = take(10_000);
        assert_eq!(cuda(&last), "7");
        assert_eq!(devices.find(10_000), None, "all are taken");
        drop(one);
        assert_eq!(cuda(&take(10_000)), "GPU-5");
        control.cancel(None);
        drop((half, other_half));
        let both = take(20_000);
        assert_eq!(cuda(&both), "2,GPU-5");
        assert!(devices.take(10_000, &control).is_none(), "one that is to end does not wait");
        assert_eq!(cuda(&take(0)), "", "who asks for none sees none");
    }

    #[test]
    fn without_a_batch_system_they_are_numbered() {
        let control = Control::new().unwrap();
        let devices = devices(&[], 2);
        let taken = devices.take(20_000, &control).expect("there are two");
        let both = |name: &'static str| (name, "0,1".to_string());
        assert_eq!(taken.variables(), [both("CUDA_VISIBLE_DEVICES"), both("ROCR_VISIBLE_DEVICES")]);
        let amd =
            super::tests::devices(&[("ROCR_VISIBLE_DEVICES", "4,6"), ("ZE_AFFINITY_MASK", "0.1,1.1")], 2);
        let taken = amd.take(10_000, &control).expect("there is one");
        let expected = [("ROCR_VISIBLE_DEVICES", "4".to_string()), ("ZE_AFFINITY_MASK", "0.1".to_string())];
        assert_eq!(taken.variables(), expected);
        let none = super::tests::devices(&[("CUDA_VISIBLE_DEVICES", "3")], 0);
        assert!(none.take(0, &control).expect("at once").variables().is_empty(), "left as the worker has it");
    }
}
