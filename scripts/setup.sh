#!/usr/bin/env bash
# Makes .venv ready to train and test. Safe to run again: does nothing when up to date.
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

has_nvidia_driver() { "$python" -c 'import ctypes; ctypes.CDLL("libnvidia-ml.so.1")' 2>/dev/null; }
variant=${MBREC_VARIANT:-$(has_nvidia_driver && echo cuda || echo cpu)}
case $variant in cpu|cuda) ;; *) say "MBREC_VARIANT is '$variant', not cpu or cuda"; exit 2 ;; esac

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    say "$("$python" --version 2>&1) is too old: 3.11 or newer is needed (MBREC_PYTHON names another)"; exit 2; }

# What was installed, from what: the stamp is compared, so an edited pin installs again.
stamp=$(cat pyproject.toml constraints.txt "$shim/pyproject.toml" scripts/setup.sh | sha256sum | cut -c1-16)-$variant
if [ "$(cat "$venv/.mbrec-stamp" 2>/dev/null)" = "$stamp" ]; then exit 0; fi

if [ ! -x "$venv/bin/python" ]; then
    # What a failed try leaves has a python without pip, which would pass for done next time.
    "$python" -m venv "$venv" || {
        rm -f "$venv/bin/python"; say "python has no venv module; on Debian or Ubuntu: apt-get install python3-venv"; exit 2; }
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
args=(--constraint constraints.txt --editable '.[train,test]')

if [ "$variant" = cpu ]; then
    # PyTorch's CPU build is the same version with "+cpu"; PyPI itself has only the CUDA build.
    torch="torch==$(sed -n 's/^torch==//p' constraints.txt)+cpu"
    say "installing into $venv (CPU)"
    "${pip[@]}" install --no-deps "$torch" >/dev/null 2>&1 ||
        "${pip[@]}" install --no-deps --retries 1 --index-url "$torch_index" "$torch" ||
        say "no $torch within reach; taking the default CUDA build (2.5 GB), which works on a CPU too"
    args+=("./$shim")
else
    say "installing into $venv (CUDA, about 3 GB to download)"
fi
"${pip[@]}" install --use-pep517 "${args[@]}"
printf '%s\n' "$stamp" > "$venv/.mbrec-stamp"
