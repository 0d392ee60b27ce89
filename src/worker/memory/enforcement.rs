//! Who ends a job that takes too much memory, and what counts for him: a control group, somebody who sums
//! what processes have resident or mapped, the limit of address space, or nobody. Owns the judgement over
//! what was read and the reading; the size of the limit is `limits`' business.

use crate::base::units::ByteSize;
use serde::Serialize;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long Slurm's controller may take to answer.
const SCONTROL_TIME: Duration = Duration::from_secs(3);

/// Where Slurm's configuration lies, besides `$SLURM_CONF`: the node's own file, and its cache where the
/// controller hands it out.
const SLURM_FILES: [&str; 3] =
    ["/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf", "/var/spool/slurmd/conf-cache/slurm.conf"];

/// What is known of this place.
#[derive(Clone, Debug, Default)]
pub(in crate::worker) struct Readings {
    /// The files of control groups that limit memory, and their limits in bytes.
    pub cgroups: Vec<(String, u64)>,
    /// The limit of address space, bytes.
    pub address_space: Option<u64>,
    /// Physical memory, bytes: a limit that is not below it limits nothing.
    pub ram: Option<u64>,
    /// The batch system whose job this is.
    pub batch: Batch,
    /// Slurm's configuration, as its file or `scontrol show config` has it.
    pub slurm: Option<String>,
}

/// A batch system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::worker) enum Batch {
    #[default]
    None,
    Slurm,
    GridEngine,
    Pbs,
}

/// Who enforces the memory limit, most direct first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Enforcer {
    /// The kernel, for all processes of a control group together.
    Cgroup {
        /// The file with the limit.
        file: String,
        /// The limit, bytes.
        bytes: u64,
    },
    /// Somebody who sums the resident memory of a job's processes now and then.
    SummedResident {
        /// Who, and from what that is known.
        who: String,
    },
    /// Somebody who sums the address space of a job's processes, and the kernel for each of them.
    SummedAddressSpace {
        /// Who, and from what that is known.
        who: String,
        /// The limit, bytes.
        bytes: u64,
    },
    /// The kernel, for each process by itself: allocations beyond it fail.
    AddressSpace {
        /// The limit, bytes.
        bytes: u64,
    },
}

/// How the memory limit is enforced here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Enforcement {
    /// All who enforce it; empty if nobody was found.
    pub enforcers: Vec<Enforcer>,
    /// Memory that processes share counts in each of them that maps it.
    pub every_mapping_counts: bool,
    /// What could not be found out, or should be known besides.
    pub notes: Vec<String>,
}

impl Enforcement {
    /// Judges what was read.
    pub(in crate::worker) fn of(readings: &Readings) -> Enforcement {
        let mut found = Enforcement::default();
        let below_ram = |bytes: u64| readings.ram.is_none_or(|ram| bytes < ram);
        let least = readings.cgroups.iter().filter(|(_, bytes)| below_ram(*bytes)).min_by_key(|(_, b)| *b);
        if let Some((file, bytes)) = least {
            found.enforcers.push(Enforcer::Cgroup { file: file.clone(), bytes: *bytes });
        }
        match (readings.batch, readings.address_space) {
            (Batch::GridEngine, Some(bytes)) => {
                let who = "Grid Engine's h_vmem, seen as ulimit -v".to_owned();
                found.enforcers.push(Enforcer::SummedAddressSpace { who, bytes });
            }
            (_, Some(bytes)) => found.enforcers.push(Enforcer::AddressSpace { bytes }),
            (_, None) => {}
        }
        match readings.batch {
            Batch::Slurm => found.judge_slurm(readings.slurm.as_deref()),
            Batch::Pbs if found.enforcers.is_empty() => found.notes.push(
                "PBS may sum resident memory ($enforce in pbs_mom's configuration): not seen from here"
                    .into(),
            ),
            _ => {}
        }
        let sums =
            |e: &Enforcer| matches!(e, Enforcer::SummedResident { .. } | Enforcer::SummedAddressSpace { .. });
        found.every_mapping_counts = found.enforcers.iter().any(sums);
        found
    }

    fn judge_slurm(&mut self, config: Option<&str>) {
        let Some(config) = config else {
            self.notes.push("Slurm's configuration could not be read: OverMemoryKill may be set".into());
            return;
        };
        let params = setting(config, "JobAcctGatherParams").unwrap_or_default();
        let has = |name: &str| params.split(',').any(|p| p.trim().eq_ignore_ascii_case(name));
        if !has("OverMemoryKill") {
            return;
        }
        let who = format!("Slurm, JobAcctGatherParams={params}");
        if has("UsePss") || has("NoShared") {
            // Then what is shared counts in parts or not at all.
            self.notes.push(format!("{who}: shared memory is not counted in each process"));
        } else {
            self.enforcers.push(Enforcer::SummedResident { who });
        }
    }

    /// What is known here. Asks Slurm's controller, if its configuration does not lie on this node.
    pub fn find() -> Enforcement {
        Enforcement::of(&Readings::here(&|name| std::env::var(name).ok()))
    }

    /// Lines for people.
    pub fn lines(&self) -> Vec<String> {
        let size = |bytes: &u64| ByteSize(*bytes).to_string();
        let line = |enforcer: &Enforcer| match enforcer {
            Enforcer::Cgroup { file, bytes } => format!("a control group: {file}, {}", size(bytes)),
            Enforcer::SummedResident { who } => format!("resident memory summed over processes: {who}"),
            Enforcer::SummedAddressSpace { who, bytes } => {
                format!("address space summed over processes: {who}, {}", size(bytes))
            }
            Enforcer::AddressSpace { bytes } => {
                format!("the limit of address space of each process (ulimit -v): {}", size(bytes))
            }
        };
        let mut lines: Vec<String> = self.enforcers.iter().map(line).collect();
        if lines.is_empty() {
            lines.push("nobody that could be found: only this worker's own thresholds".into());
        }
        let mut lines: Vec<String> = lines.into_iter().map(|line| format!("enforced by {line}")).collect();
        if self.every_mapping_counts {
            lines.push("every mapping counts: results count again in each process that maps them".into());
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines
    }
}

/// A line `Name = value` as in `scontrol show config`, or `Name=value` as in `slurm.conf`.
fn setting(config: &str, name: &str) -> Option<String> {
    let value = config.lines().find_map(|line| {
        let (key, value) = line.split('#').next()?.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    });
    value.filter(|value| !value.is_empty() && value != "(null)")
}

impl Readings {
    /// Reads everything.
    fn here(variable: &dyn Fn(&str) -> Option<String>) -> Readings {
        let batch = batch(variable);
        Readings {
            cgroups: crate::worker::limits::cgroups(),
            address_space: crate::worker::limits::address_space(),
            ram: crate::worker::limits::ram(),
            batch,
            slurm: (batch == Batch::Slurm).then(|| slurm_config(variable)).flatten(),
        }
    }
}

fn batch(variable: &dyn Fn(&str) -> Option<String>) -> Batch {
    let is_set = |name: &str| variable(name).is_some();
    if is_set("SLURM_JOB_ID") {
        Batch::Slurm
    } else if is_set("PBS_JOBID") {
        Batch::Pbs
    } else if is_set("JOB_ID") && (is_set("SGE_ROOT") || is_set("SGE_CELL") || is_set("SGE_TASK_ID")) {
        Batch::GridEngine
    } else {
        Batch::None
    }
}

/// From a file on this node where there is one: a thousand workers should not all ask the controller.
fn slurm_config(variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let own = variable("SLURM_CONF");
    let files = own.as_deref().into_iter().chain(SLURM_FILES);
    let included =
        |text: &String| !text.lines().any(|l| l.trim_start().to_lowercase().starts_with("include "));
    // What includes other files may say it there.
    let read = |file: &str| fs::read_to_string(file).ok().filter(included);
    files.into_iter().find_map(read).or_else(|| ask("scontrol", &["show", "config"], SCONTROL_TIME))
}

/// What a program prints, if it ends well within `time`.
fn ask(program: &str, args: &[&str], time: Duration) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let mut out = child.stdout.take()?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        out.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let until = Instant::now() + time;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return reader.join().ok()?.ok(),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(_)) => return None,
            // It may have ended by itself just now.
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Slurm 23.11 prints it, shortened.
    const SHOWN: &str = "Configuration data as of 2026-11-20T10:11:12\n\
        JobAcctGatherFrequency  = 30\nJobAcctGatherType       = jobacct_gather/linux\n\
        JobAcctGatherParams     = OverMemoryKill,DisableGPUAcct\nTaskPlugin              = task/affinity\n";

    const GIB: u64 = 1 << 30;

    fn readings(batch: Batch, slurm: Option<&str>) -> Readings {
        Readings { batch, slurm: slurm.map(str::to_owned), ram: Some(100 * GIB), ..Readings::default() }
    }

    #[test]
    fn slurm_that_sums_is_found() {
        let found = Enforcement::of(&readings(Batch::Slurm, Some(SHOWN)));
        assert!(found.every_mapping_counts);
        let text = found.lines().join("\n");
        assert!(text.contains("summed over processes: Slurm, JobAcctGatherParams=OverMemoryKill"), "{text}");
        for other in [SHOWN.replace("OverMemoryKill,", ""), SHOWN.replace("DisableGPUAcct", "UsePss")] {
            let found = Enforcement::of(&readings(Batch::Slurm, Some(&other)));
            assert_eq!((found.every_mapping_counts, found.enforcers.len()), (false, 0), "{other}");
        }
        let file = "# JobAcctGatherParams=NoShared\njobacctgatherparams=overmemorykill # why not\n";
        assert!(Enforcement::of(&readings(Batch::Slurm, Some(file))).every_mapping_counts);
        let unknown = Enforcement::of(&readings(Batch::Slurm, None)).lines().join("\n");
        assert!(unknown.contains("nobody") && unknown.contains("may be set"), "{unknown}");
    }

    #[test]
    fn groups_count_where_they_limit() {
        let mut here = readings(Batch::None, None);
        here.cgroups = vec![("top".into(), 200 * GIB), ("job".into(), 8 * GIB), ("step".into(), 9 * GIB)];
        let found = Enforcement::of(&here);
        assert_eq!(found.enforcers, [Enforcer::Cgroup { file: "job".into(), bytes: 8 * GIB }]);
        assert!(found.lines()[0].contains("job, 8 GiB"));
        here.cgroups.truncate(1);
        assert_eq!(Enforcement::of(&here).enforcers, []);
    }

    #[test]
    fn address_space_is_summed_by_grid_engine_only() {
        let limited = |batch| Readings { address_space: Some(4 * GIB), ..readings(batch, None) };
        assert!(Enforcement::of(&limited(Batch::GridEngine)).every_mapping_counts);
        let plain = Enforcement::of(&limited(Batch::None));
        assert_eq!(plain.enforcers, [Enforcer::AddressSpace { bytes: 4 * GIB }]);
        assert!(!plain.every_mapping_counts);
        let json = serde_json::to_value(&plain).unwrap();
        assert_eq!(json["enforcers"][0]["by"], "address-space");
        assert!(Enforcement::of(&readings(Batch::Pbs, None)).lines().join("\n").contains("pbs_mom"));
    }

    #[test]
    fn a_program_that_hangs_is_not_waited_for() {
        assert_eq!(ask("sleep", &["60"], Duration::from_millis(50)), None);
        assert_eq!(ask("echo", &["a"], SCONTROL_TIME).as_deref(), Some("a\n"));
        assert_eq!(ask("false", &[], SCONTROL_TIME), None);
        assert_eq!(ask("there-is-no-such-program", &[], SCONTROL_TIME), None);
    }

    #[test]
    fn the_batch_system_goes_by_its_variables() {
        let of = |names: &'static [&str]| batch(&|name| names.contains(&name).then(|| "1".to_owned()));
        assert_eq!(of(&["SLURM_JOB_ID"]), Batch::Slurm);
        assert_eq!(of(&["PBS_JOBID", "JOB_ID"]), Batch::Pbs);
        assert_eq!(of(&["JOB_ID", "SGE_ROOT"]), Batch::GridEngine);
        assert_eq!(of(&["JOB_ID"]), Batch::None);
    }
}
