//! Clusters in a real Slurm, which each test brings up for itself with `scripts/slurm-testbed` and takes away
//! again. The scenarios are shell scripts, as people write them in an allocation; what they leave is checked
//! here.

#[path = "slurm/allocation.rs"]
mod allocation;
#[path = "slurm/networks.rs"]
mod networks;
#[path = "slurm/nodes.rs"]
mod nodes;
#[path = "slurm/steps.rs"]
mod steps;
mod support;
#[path = "slurm/testbed.rs"]
mod testbed;
