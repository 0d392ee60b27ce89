#!/usr/bin/env bash
# Puts workers on the nodes of this job, for the scheduler that start_hpcdag.sh has started, and returns when
# they are connected, or says which are not and why. Set what you want to be different, empty is unset:
#
#     NTHREADS     threads of each worker     (its share of the node's processors)
#     NPROCS       workers on each node       (one)
#     MEMLIMIT     memory of each worker      (its share of the job's memory on the node)
#     INTERFACE    network interface          (found)
set -euo pipefail
job=${SLURM_JOB_ID:-${PBS_JOBID:-${JOB_ID:-$$}}}
SCHEDULE_FILE=${SCHEDULE_FILE:-${SCRATCH:-$PWD}/scheduler_$job.json}
nodes=${SLURM_JOB_NUM_NODES:-1}
echo "Scheduler file: $SCHEDULE_FILE"
exec hpcdag workers start --scheduler-file "$SCHEDULE_FILE" \
    ${NPROCS:+-n $((NPROCS * nodes))} \
    ${NTHREADS:+--nthreads "$NTHREADS"} \
    ${MEMLIMIT:+--memory-limit "$MEMLIMIT"} \
    ${INTERFACE:+--interface "$INTERFACE"}
