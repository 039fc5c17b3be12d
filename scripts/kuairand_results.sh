#!/usr/bin/env bash
# The KuaiRand table of results/kuairand.md: scripts/kuairand_results.sh DIR [key=value ...]
#   DIR   what scripts/prepare_kuairand.py wrote
# Trains 2 experiments x 2 balancers x 3 seeds (about 3 minutes on two cores) into outputs/.
set -euo pipefail
if [ $# -eq 0 ]; then sed -n '2,4s/^# //p' "$0"; exit 2; fi
root=$(cd "$(dirname "$0")/.." && pwd)
data=$1
shift
runs=()
for experiment in kuairand_multibalance kuairand_feeds_multibalance; do
    for balancer in equal multibalance; do
        for seed in 0 1 2; do
            name=${experiment%multibalance}${balancer}_$seed
            runs+=("outputs/$name")
            "$root/scripts/train.sh" "experiment=$experiment" "balancer=$balancer" \
                "data.path=$data" "trainer.seed=$seed" "run.name=$name" "$@" >&2
        done
    done
done
"${MBREC_VENV:-$root/.venv}/bin/python" "$root/scripts/summarise_runs.py" "${runs[@]}"
