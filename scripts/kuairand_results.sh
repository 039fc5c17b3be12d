#!/usr/bin/env bash
# The KuaiRand tables of results/kuairand.md: scripts/kuairand_results.sh DIR [key=value ...]
#   DIR                    what `prepare kuairand` wrote
#   EXPERIMENTS="A B"      of configs/experiment, default: the three of results/kuairand.md
# Trains each with 2 balancers and 3 seeds (some 15 s a run on two cores) into outputs/NAME_OF_DIR/.
set -euo pipefail
if [ $# -eq 0 ]; then sed -n '2,5s/^# //p' "$0"; exit 2; fi
root=$(cd "$(dirname "$0")/.." && pwd)
data=$1
shift
folder=outputs/$(basename "$data")
default="kuairand_multibalance kuairand_history_multibalance kuairand_feeds_multibalance"
runs=()
for experiment in ${EXPERIMENTS:-$default}; do
    for balancer in equal multibalance; do
        for seed in 0 1 2; do
            name=${experiment%multibalance}${balancer}_$seed
            runs+=("$folder/$name")
            "$root/scripts/train.sh" "experiment=$experiment" "balancer=$balancer" \
                "data.path=$data" "trainer.seed=$seed" \
                "run.folder=$folder" "run.name=$name" "$@" >&2
        done
    done
done
"${MBREC_VENV:-$root/.venv}/bin/python" "$root/scripts/summarise_runs.py" "${runs[@]}"
