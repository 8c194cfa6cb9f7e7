#!/usr/bin/env bash
# Collects in .gpu/ the wheels that a machine without network lacks: this project's and those of
# the frameworks. It needs torch, CuPy, transformers and pytest of its own.
#
#     make gpu-wheels        # here, after every change of the project
#     make gpu               # there, with .gpu/ carried along
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
python=${PYTHON:-.venv/bin/python}
mkdir -p .gpu
rm -f .gpu/spikeloom-*.whl
"$python" -m pip wheel -q --no-deps --no-build-isolation -w .gpu .
have() { compgen -G ".gpu/$1-*.whl" >/dev/null; }
# the frameworks as they are pinned, and what they import; Norse has no wheel for every Python
for need in $(grep -oE '^(spikingjelly|snntorch|nir|nirtorch)==[0-9.]+' requirements/hosts.txt) \
            $(grep -oE '^(loguru|scienceplots)==[0-9.]+' requirements/dev.txt); do
  have "${need%%=*}" || "$python" -m pip download -q --no-deps -d .gpu "$need"
done
have norse || "$python" -m pip wheel -q --no-deps -w .gpu \
  "$(grep -oE '^norse==[0-9.]+' requirements/hosts.txt)"
ls -l .gpu
