#!/bin/bash
#SBATCH --job-name=rellm-train
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#
# Train a recipe on all GPUs of one node: one process on each, which share every step.
#
#   sbatch examples/slurm/train.sh MANIFEST RECIPE CACHE RUN [OPTION of rellm train]...
set -euo pipefail

if (($# < 4)); then
    echo "usage: sbatch train.sh MANIFEST RECIPE CACHE RUN [OPTION of rellm train]..." >&2
    exit 2
fi
manifest=$1 recipe=$2 cache=$3 run=$4
shift 4

# Two minutes before the time limit the job is queued again. It goes on from its newest checkpoint,
# which is at most `training.checkpoint_minutes` old.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

processes=${SLURM_GPUS_ON_NODE:-1}
export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-processes} / processes))
torchrun --standalone --no-python --nproc-per-node "$processes" \
    rellm train --recipe "$recipe" --manifest "$manifest" --cache "$cache" --out "$run" "$@" &
wait $!
