#!/bin/sh
# Runs one job directory on a Slurm cluster that shares the data directory. In DATA/settings.toml:
#   [jobs]
#   command = ["sbatch", "--wait", "--job-name={job_name}", "--output={work_dir}/slurm.log", "/path/to/slurm.sh", "{job_dir}"]
#   cancel = ["scancel", "--name={job_name}"]
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
set -eu
exec "${NASHLOOP_PYTHON:-python}" -m online_learner run "$1"
