#!/bin/bash
# Trains one network on all GPUs of several machines: sbatch examples/slurm_train.sh
# The same command again goes on where the run was interrupted.
#SBATCH --job-name=haloformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4        # one task per GPU
#SBATCH --gpus-per-node=4          # not --gpus-per-task: each task must see all GPUs of its machine, and takes its own
#SBATCH --cpus-per-task=8          # simulate the next images while the GPU is at work
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@120          # two minutes before the end: the run saves where it stands
set -e
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

# batch_size counts the images of all GPUs together: 128 on each of eight here.
srun haloformer train --data model_ii --model hybrid_tiny --out runs/slurm \
  --epochs 100 --epoch_size 60000 --batch_size 1024 --lr 2e-3 --progress false \
  --device cuda --devices "$SLURM_NTASKS_PER_NODE" --nodes "$SLURM_JOB_NUM_NODES"
