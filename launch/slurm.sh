#!/bin/bash
# sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh [arguments of dvc repro]
#
# DVC runs once, on the first node; each stage's ranks run on all nodes. Two minutes before the time is up, or on
# `scancel --signal=USR1 --batch JOB`, the training saves its state and the job goes back into the queue, to go on later.
#SBATCH --job-name=tcl
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol --oneliner show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
port=$((20000 + SLURM_JOB_ID % 10000))
export TCL_TORCHRUN="--nnodes=$SLURM_JOB_NUM_NODES --node-rank=\$SLURM_NODEID --master-addr=$address --master-port=$port"
# A node whose ranks fail ends the others within a minute. Not at once, by --kill-on-bad-exit: after a stop, when the nodes
# end one by one, SLURM may deliver that kill late, to the job that has come back from the queue.
export TCL_ON_NODES="srun --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=60
    ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}"

requeue=
trap 'requeue=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1 # the steps of the job; this script is none
dvc repro "$@" &
status=0
wait $! || status=$?
while kill -0 $! 2>/dev/null; do # the signal has ended the waiting, not DVC
    status=0
    wait $! || status=$?
done
if [ -n "$requeue" ] && [ $status -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $status
