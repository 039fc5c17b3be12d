#!/usr/bin/env bash
# Pins every package, with the hash of each of its files: scripts/lock.sh [uv's arguments]
#   scripts/lock.sh                        keeps the versions of constraints.txt where they still fit
#   scripts/lock.sh --upgrade-package X    takes the newest X that fits; --upgrade: of all
# Writes constraints.txt (versions alone, for pip's -c) and requirements/*.txt, which scripts/setup.sh
# installs with --require-hashes. torch is left out of those: its CPU and CUDA builds share a version.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-${MBREC_VENV:-.venv}/bin/uv}
[ -x "$uv" ] || { printf "lock: no uv in .venv: run 'scripts/setup.sh dev' first\n" >&2; exit 2; }

compile() { "$uv" pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate "$@"; }
names() { sed -n 's/^\([A-Za-z0-9_.-]*\)==.*/\1/p' "$@" | sort -u; }
shim=scripts/fbgemm-gpu-cpu/pyproject.toml

compile pyproject.toml "$shim" --extra train --extra test --extra dev --output-file constraints.txt "$@"

# Each file holds what the one before it lacks.
omit=(torch setuptools fbgemm-gpu fbgemm-gpu-cpu)
mapfile -t of_torch < <(names constraints.txt | grep -E '^(nvidia-|cuda-|triton$)')
omit+=("${of_torch[@]}")
lock() {
    local file=$1 flags=()
    shift
    for name in "${omit[@]}"; do flags+=(--no-emit-package "$name"); done
    compile --generate-hashes --constraint constraints.txt "${flags[@]}" "$@" --output-file "$file"
    mapfile -t -O "${#omit[@]}" omit < <(names "$file")
}
mkdir -p requirements
lock requirements/train.txt pyproject.toml --extra train
lock requirements/test.txt pyproject.toml --extra train --extra test
lock requirements/dev.txt pyproject.toml --extra train --extra test --extra dev

# What builds those that come as source, and FBGEMM, whose two builds have names of their own.
pin() { grep "^$2==" constraints.txt | compile --generate-hashes --no-deps --output-file "requirements/$1.txt" -; }
pin build setuptools
pin cpu fbgemm-gpu-cpu
pin cuda fbgemm-gpu
