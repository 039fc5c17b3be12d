#!/usr/bin/env bash
# Makes .venv ready: scripts/setup.sh [train|test|dev]     default: train; each includes the one before
# Safe to run again: does nothing when up to date. Each package but torch is checked against its hash.
#   MBREC_VARIANT=cpu|cuda   default: cuda where an NVIDIA driver is found, else cpu
#   MBREC_PYTHON=python3.12  the interpreter for .venv (3.11 or newer)
#   MBREC_TORCH_INDEX=URL    the wheel index to take PyTorch's CPU build from
set -euo pipefail
cd "$(dirname "$0")/.."

python=${MBREC_PYTHON:-python3}
venv=${MBREC_VENV:-.venv}
shim=scripts/fbgemm-gpu-cpu
torch_index=${MBREC_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
say() { printf 'setup: %s\n' "$*" >&2; }

case ${1:-train} in
train) levels=(train) ;;
test) levels=(train test) ;;
dev) levels=(train test dev) ;;
*) say "expected train, test or dev, got '$1'"; exit 2 ;;
esac

has_nvidia_driver() { "$python" -c 'import ctypes; ctypes.CDLL("libnvidia-ml.so.1")' 2>/dev/null; }
variant=${MBREC_VARIANT:-$(has_nvidia_driver && echo cuda || echo cpu)}
case $variant in cpu|cuda) ;; *) say "MBREC_VARIANT is '$variant', not cpu or cuda"; exit 2 ;; esac

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    say "$("$python" --version 2>&1) is too old: 3.11 or newer is needed (MBREC_PYTHON names another)"; exit 2; }

# A line for each level that is installed, and from what: an edited pin installs again.
hash=$(cat pyproject.toml constraints.txt requirements/*.txt "$shim/pyproject.toml" scripts/setup.sh |
    sha256sum | cut -c1-16)-$variant
stamp=$venv/.mbrec-stamp
is_done() { grep -qsx "$hash $1" "$stamp"; }
if is_done "${levels[-1]}"; then exit 0; fi

if [ ! -x "$venv/bin/python" ]; then
    # What a failed try leaves has a python without pip, which would pass for done next time.
    "$python" -m venv "$venv" || {
        rm -f "$venv/bin/python"; say "python has no venv module; on Debian or Ubuntu: apt-get install python3-venv"; exit 2; }
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
locked() { "${pip[@]}" install --no-deps --require-hashes --use-pep517 --no-build-isolation "$@"; }
ours() { "${pip[@]}" install --no-deps --use-pep517 --no-build-isolation "$@"; }

install_torch() {
    local pin cpu
    pin=$(grep '^torch==' constraints.txt)
    cpu=$pin+cpu
    # PyTorch's CPU build is the same version with "+cpu"; PyPI itself has only the CUDA build.
    if [ "$variant" = cpu ]; then
        "${pip[@]}" install --no-deps "$cpu" >/dev/null 2>&1 && return
        "${pip[@]}" install --no-deps --retries 1 --index-url "$torch_index" "$cpu" && return
        say "no $cpu within reach; taking the default CUDA build (2.5 GB), which works on a CPU too"
    fi
    "${pip[@]}" install --constraint constraints.txt "$pin"
}

for level in "${levels[@]}"; do
    is_done "$level" && continue
    case $level-$variant in
    train-cpu) say "installing into $venv (CPU)" ;;
    train-cuda) say "installing into $venv (CUDA, about 3 GB to download)" ;;
    *) say "adding what '$level' needs" ;;
    esac
    if [ "$level" = train ]; then
        rm -f "$stamp"
        locked -r requirements/build.txt
        locked -r requirements/train.txt -r "requirements/$variant.txt"
        install_torch
        if [ "$variant" = cpu ]; then ours "./$shim"; fi
        ours --editable .
    else
        locked -r "requirements/$level.txt"
    fi
    printf '%s %s\n' "$hash" "$level" >> "$stamp"
done
