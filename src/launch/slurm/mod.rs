//! Slurm from the inside of an allocation: its notation, what it says through the environment, and workers as
//! steps of `srun`. Submitting jobs is not done here.

pub mod environment;
pub mod hostlist;
pub mod srun;
