#!/bin/bash
# Simulates a million lenses on all CPUs of several machines, which share this folder: sbatch examples/slurm_simulate_ray.sh
# The same command again makes only the shards that are missing.
#SBATCH --job-name=haloformer
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1        # Ray starts the workers itself
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=02:00:00
set -e
export RAY_USAGE_STATS_ENABLED=0
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$head:6379

# Ray's head on the first machine, where this script runs, too; then its workers on the others.
srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --port=6379 --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false --block &
until ray status --address="$address" > /dev/null 2>&1; do sleep 2; done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
    ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi

# A folder of shards; with `--out million.h5` they become one file in the end. Machines that join later get their share of the rest.
haloformer simulate model_ii --n 1000000 --seed 1 --out million --shard_size 8192 \
  --workers $((SLURM_JOB_NUM_NODES * SLURM_CPUS_PER_TASK)) --ray_address "$address"
