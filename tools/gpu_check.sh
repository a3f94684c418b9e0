#!/usr/bin/env bash
# Everything that only a CUDA device can show, on a machine with torch (with CUDA), nvcc and the
# package's dependencies; it needs no network:
#
#   tools/gpu_check.sh FOLDER [PART...]
#
# Parts: build, tests, sanitizer, launches, throughput, million, train. Without names all run, in
# this order. Each takes less than 8 minutes or is stopped; a part that fails does not stop those
# after it, except build. Logs and JSON are left in FOLDER, and one table is printed last.
set -uo pipefail

parts=(build tests sanitizer launches throughput million train)
seconds=480

[[ $# -ge 1 ]] || { sed -n '2,10s/^# \?//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
wanted=("$@")
[[ $# -gt 0 ]] || wanted=("${parts[@]}")
for part in "${wanted[@]}"; do
  [[ " ${parts[*]} " == *" $part "* ]] || { echo "no part $part: ${parts[*]}" >&2; exit 2; }
done
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python3}
export MUJOCO_GL=disable

build() { # without isolation: there may be no network
  IQL_FAST_CUDA=1 "$python" -m pip install --no-build-isolation --no-deps -e . &&
    "$python" -m iql_fast.info
}

tests() {
  "$python" -c 'from iql_fast.engines import cuda; reason = cuda.unavailable_reason(); \
assert not reason, reason' && "$python" -m pytest -m gpu -rs --durations=5
}

sanitizer() { # a short run in both precisions, dropout and an odd batch included
  command -v compute-sanitizer || { echo "compute-sanitizer is not on the PATH"; return 1; }
  local program='
import numpy as np
from iql_fast.data.dataset import Transitions
from iql_fast.engines import Hyperparameters, NetworkSpec, create
r = np.random.default_rng(0).standard_normal
f = lambda *shape: r(shape).astype(np.float32)
data = Transitions(f(500, 17), np.tanh(f(500, 6)), f(500), np.ones(500, np.float32), f(500, 17))
for precision in ("fp32", "bf16x3"):
    for order in ("new", "old"):
        hyper = Hyperparameters(batch_size=250, actor_dropout=0.1, value_order=order)
        engine = create("cuda", NetworkSpec(17, 6), hyper, data, [0, 1], precision=precision)
        engine.run(3)
        engine.step_on(engine.batch_at(3))
        engine.state_dict()
'
  for tool in memcheck racecheck initcheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -c "$program" || return 1
  done
}

launches() { "$python" bench/cuda_launches.py --json "$folder/launches.json"; }

throughput() { # with every rival that is installed
  "$python" bench/throughput.py --device cuda --rounds 5 --json "$folder/throughput.json"
}

million() {
  for precision in fp32 bf16x3; do
    "$python" bench/million_steps.py --precision "$precision" \
      --json "$folder/million-$precision.json" || return 1
  done
}

train() { # with all evaluations, on data made in the simulator
  "$python" -m iql_fast.train --task hopper-medium-v2 --offline --engine cuda \
    --out "$folder/hopper-medium" --overwrite
}

verdicts=()
failed=0
for part in "${wanted[@]}"; do
  echo "=== $part"
  start=$SECONDS
  export -f "${parts[@]}"
  folder=$folder python=$python timeout --signal=INT --kill-after=20 "$seconds" \
    bash -c "set -o pipefail; $part" 2>&1 | tee "$folder/$part.log"
  status=${PIPESTATUS[0]}
  case $status in
    0) verdict=passed ;;
    124) verdict="stopped after $seconds s" ;;
    *) verdict=FAILED ;;
  esac
  [[ $status == 0 ]] || failed=1
  # The line that says most: the last one.
  figure=$(grep -v '^ *$' "$folder/$part.log" | tail -n 1 | cut -c 1-100)
  verdicts+=("$(printf '%-11s %-18s %5d s  %s' "$part" "$verdict" $((SECONDS - start)) "$figure")")
  [[ $part != build || $status == 0 ]] || break
done
printf '%s\n' "=== $folder" "${verdicts[@]}" | tee "$folder/summary.txt"
exit $failed
