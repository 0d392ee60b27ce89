#!/usr/bin/env bash
# Starts a scheduler for this job and says where its file is; add_workers.sh puts workers on the job's nodes,
# again and again if need be, beside the same scheduler.
#
#     export SCHEDULE_FILE=$SCRATCH/scheduler_$SLURM_JOB_ID.json    (this is also what it is if unset)
#     scripts/start_hpcdag.sh
#     scripts/add_workers.sh
#     hpcdag submit --scheduler-file "$SCHEDULE_FILE" graph.toml
#     hpcdag stop --scheduler-file "$SCHEDULE_FILE"                 the end of it
#
# INTERFACE, empty for none in particular, is the network interface to listen on.
# A stale file needs no removing: it is replaced if nobody answers at it, and refused if somebody does.
set -euo pipefail
job=${SLURM_JOB_ID:-${PBS_JOBID:-${JOB_ID:-$$}}}
SCHEDULE_FILE=${SCHEDULE_FILE:-${SCRATCH:-$PWD}/scheduler_$job.json}
hpcdag scheduler --detach --scheduler-file "$SCHEDULE_FILE" ${INTERFACE:+--interface "$INTERFACE"} > /dev/null
echo "Scheduler file: $SCHEDULE_FILE"
