#!/usr/bin/env bash
# Everything that a GPU has to show, in nine minutes at most and without network. Each step has its
# own time limit and its own log, and none stops the next.
#
#     bash examples/benchmarks/gpu/run.sh
#
# OUT      where logs and results go            (gpu-output)
# PYTHON   the Python with torch and CuPy       (python3)
# WHEELS   a folder of wheels to use, if there  (.gpu, see prepare.sh)
# SMALL    if set, small sizes, to see that it runs
# PATIENCE what all time limits are multiplied with (1)
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
here=examples/benchmarks/gpu
OUT=${OUT:-gpu-output} PYTHON=${PYTHON:-python3} WHEELS=${WHEELS:-.gpu}
small=${SMALL:+--small} patience=${PATIENCE:-1}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
mkdir -p "$OUT"

step() { # limit in seconds, name of the log, command
  local limit=$(($1 * patience)) log=$2 start=$SECONDS status
  shift 2
  echo "== $log"
  timeout -k 5 "$limit" "$@" >"$OUT/$log.log" 2>&1
  status=$?
  echo "-- $log: status $status, $((SECONDS - start)) s"
  tail -n 8 "$OUT/$log.log"
}

# `plugins` is a folder of the checkout and a package of the wheel: src/ is never on the path.
if compgen -G "$WHEELS/*.whl" >/dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl ||
    { echo "the wheels in $WHEELS cannot be installed"; exit 9; }
  export PYTHONPATH=$site:$PWD
else
  export PYTHONPATH=$PWD
fi

command -v nvidia-smi >/dev/null && nvidia-smi -L
step 20 0_doctor "$PYTHON" -c "import spikeloom; print(spikeloom.doctor())"
step 40 1_smoke "$PYTHON" "$here/smoke.py"
grep -q "^smoke ok" "$OUT/1_smoke.log" || { echo "the GPU kernel does not run"; exit 3; }
step 50 2_correct "$PYTHON" "$here/correct.py" "$OUT/correct.json" --seconds $((45 * patience)) $small
# a warning of torch or CuPy is no failure here; the log lists them
step 130 3_tests "$PYTHON" -m pytest tests/gpu ${SMALL:+-k auto} -q -W default -p no:cacheprovider --maxfail=40 \
  --tb=short --durations=5
step 150 4_timing "$PYTHON" "$here/timing.py" "$OUT/timing.json" --seconds $((140 * patience)) $small
SJ_LIF_CUDA_IMPLEMENTATION=torch step 35 5_spikingjelly_torch "$PYTHON" "$here/timing.py" \
  "$OUT/timing-spikingjelly-torch.json" --seconds $((30 * patience)) --frameworks spikingjelly --no-compile $small
step 10 6_host "$PYTHON" "$here/host.py" $small
step 70 7_network "$PYTHON" "$here/network.py" "$OUT/network.json" --seconds $((65 * patience)) $small
if command -v ncu >/dev/null && [ -z "$small" ]; then
  metrics=dram__bytes_read.sum,dram__bytes_write.sum,gpu__time_duration.sum
  metrics+=,dram__throughput.avg.pct_of_peak_sustained_elapsed,launch__registers_per_thread
  metrics+=,sm__warps_active.avg.pct_of_peak_sustained_active
  step 30 8_profile ncu --clock-control none --target-processes application-only \
    -k "regex:forward|backward" -c 6 --metrics "$metrics" "$PYTHON" "$here/profiled.py"
fi
"$PYTHON" "$here/tables.py" "$OUT"
echo "== all of it: $SECONDS s"
