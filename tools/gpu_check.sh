#!/usr/bin/env bash
# Everything that only a CUDA device can show, on a machine with torch (with CUDA), nvcc and the
# package's dependencies; it needs no network:
#
#   tools/gpu_check.sh [--rehearse] FOLDER [PART...]
#
# Parts: build, tests, sanitizer, launches, kernels, throughput, methods, million, data, train. Without
# names all run, in this order; each runs by itself too, once build has. Each takes less than 8
# minutes or is stopped; a part that fails does not stop those after it, except build. Logs and JSON are left in
# FOLDER, and one table is printed last (tools/gpu_table.py FOLDER prints it again).
#
# --rehearse goes through all of it without a device: tiny sizes, the CUDA engine under its emulator,
# the rivals on the CPU, no compute-sanitizer. Its figures mean nothing.
set -uo pipefail

parts=(build tests sanitizer launches kernels throughput methods million data train)
seconds=${PART_SECONDS:-480} # a slow machine may need more

export rehearse=
[[ ${1:-} != --rehearse ]] || { rehearse=1; shift; }
[[ $# -ge 1 ]] || { sed -n '2,16s/^# \?//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
wanted=("$@")
[[ $# -gt 0 ]] || wanted=("${parts[@]}")
for part in "${wanted[@]}"; do
  [[ " ${parts[*]} " == *" $part "* ]] || { echo "no part $part: ${parts[*]}" >&2; exit 2; }
done
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
export folder python=${PYTHON:-python3} MUJOCO_GL=disable

# What a rehearsal does instead, as arguments.
rehearsed() { [[ -z $rehearse ]] || printf '%s\n' "$@"; }

with_wgmma() { IQL_FAST_CUDA_WGMMA=1 "$@"; }
export wgmma_reason='
import os
from iql_fast.engines import NetworkSpec, cuda
network = NetworkSpec(11, 3, (16, 16) if os.environ["rehearse"] else (256, 256))
raise SystemExit(cuda.unavailable_reason("bf16x3", network) or 0)
'

build() { # without isolation: there may be no network
  local cuda=1
  [[ -z $rehearse ]] || cuda=emulated
  IQL_FAST_CUDA=$cuda "$python" -m pip install --no-build-isolation --no-deps -e . &&
    "$python" -m iql_fast.info
}

tests() {
  mapfile -t few < <(rehearsed tests/test_cuda_engine.py -k 'sizes or adroit or dropout')
  "$python" -c 'from iql_fast.engines import cuda; reason = cuda.unavailable_reason(); \
assert not reason, reason' && "$python" -m pytest -o addopts= -q -m gpu -rs --durations=5 "${few[@]}"
}

sanitizer() { # a short run in both forms and each precision, dropout, an odd batch and a ring
  local program='
import itertools, os
import numpy as np
from iql_fast.data.dataset import Transitions
from iql_fast.data.replay import Met, Replay
from iql_fast.engines import PRECISIONS, Hyperparameters, NetworkSpec, create
batch, hidden = (6, (8, 8)) if os.environ["rehearse"] else (250, (256, 256))
r = np.random.default_rng(0).standard_normal
f = lambda *shape: r(shape).astype(np.float32)
data = Transitions(f(500, 17), np.tanh(f(500, 6)), f(500), np.ones(500, np.float32), f(500, 17))
for form, precision in itertools.product(("launches", "resident"), PRECISIONS["cuda"]):
    os.environ["IQL_FAST_CUDA_STEP"] = form
    for order in ("new", "old"):
        hyper = Hyperparameters(batch_size=batch, actor_dropout=0.1, value_order=order)
        network = NetworkSpec(17, 6, hidden)
        engine = create("cuda", network, hyper, data, [0, 1], precision=precision)
        engine.run(3)
        engine.step_on(engine.batch_at(3))
        replay = Replay(data, 2, 501, 9)
        engine.meet(replay)
        for number in range(9):
            actions = engine.explore(f(2, 17), f(2, 6))
            replay.write(number, Met(f(2, 17), actions, f(2), np.ones(2), f(2, 17)))
            replay.met_rows = number + 1
            engine.advance(1)
        engine.state_dict()
print("no errors")
'
  if [[ -n $rehearse ]]; then
    "$python" -c "$program"
    return
  fi
  command -v compute-sanitizer || { echo "compute-sanitizer is not on the PATH"; return 1; }
  for tool in memcheck racecheck initcheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -c "$program" || return 1
  done
}

launches() {
  mapfile -t few < <(rehearsed --repeats 1 --seeds 1 --hidden 16 16 --batch 8 --rows 100)
  "$python" bench/cuda_launches.py --seeds 1 2 3 4 16 --forms launches resident \
    --json "$folder/launches.json" "${few[@]}" || return 1
  # The two ways of bf16x3 beside each other, where a device has both.
  with_wgmma "$python" -c "$wgmma_reason" || { echo "without wgmma"; return 0; }
  with_wgmma "$python" bench/cuda_launches.py --seeds 1 4 16 --precision bf16x3 \
    --json "$folder/launches-wgmma.json" "${few[@]}"
}

kernels() {
  mapfile -t few < <(rehearsed --device cpu --sizes 256 --rounds 1 --window 0.001)
  "$python" bench/kernels.py --device cuda --json "$folder/kernels.json" "${few[@]}"
}

throughput() { # with every rival that is installed, many seeds at once where it can
  mapfile -t few < <(rehearsed --device cpu --threads 1 --seeds 1 2 --rounds 1 --window 0.1 \
    --rows 1000 --contenders eager jax iql_fast)
  "$python" bench/throughput.py --device cuda --rounds 5 --seeds 1 16 \
    --json "$folder/throughput.json" "${few[@]}"
}

methods() { # under CUDA graphs; in a rehearsal those that take the least, on the CPU
  mapfile -t few < <(rehearsed --device cpu --threads 1 --names bc dt --rounds 1 --window 0.1 \
    --rows 1000)
  "$python" bench/methods.py --device cuda --rounds 3 --window 1 \
    --json "$folder/methods.json" "${few[@]}"
}

million() { # the graph engine, which is slower, does fewer steps
  mapfile -t few < <(rehearsed --steps 3 --hidden 16 16 --batch 8 --rows 100)
  local run=("$python" bench/million_steps.py --json)
  "${run[@]}" "$folder/million-fp32.json" "${few[@]}" &&
    "${run[@]}" "$folder/million-bf16x3.json" --precision bf16x3 "${few[@]}" &&
    "${run[@]}" "$folder/million-tf32.json" --precision tf32 "${few[@]}" &&
    { [[ -n $rehearse ]] ||
      "${run[@]}" "$folder/million-graph.json" --engine graph --steps 200000; }
}

data() { # made in the simulator, into the cache, where it is not there yet
  [[ -n $rehearse ]] || "$python" -m iql_fast.data make hopper-medium-v2
}

train() { # a million steps, with all evaluations beside them
  mapfile -t few < <(rehearsed --engine cpu --steps 60 --eval-interval 20 --eval-episodes 1 \
    --log-interval 20 --checkpoint-interval 20 --hidden 16 16 --batch-size 8 --eval-workers 1 \
    --eval-beside always)
  "$python" -m iql_fast.train --task hopper-medium-v2 --offline --engine cuda \
    --out "$folder/hopper-medium" --overwrite "${few[@]}"
}

export -f rehearsed with_wgmma "${parts[@]}"
[[ -z $rehearse ]] || touch "$folder/rehearsal"
failed=0
for part in "${wanted[@]}"; do
  echo "=== $part"
  start=$SECONDS
  timeout --signal=INT --kill-after=20 "$seconds" \
    bash -c "set -o pipefail; $part" 2>&1 | tee "$folder/$part.log"
  status=${PIPESTATUS[0]}
  [[ $status == 0 ]] || failed=1
  printf '{"part": "%s", "status": %d, "seconds": %d}\n' \
    "$part" "$status" $((SECONDS - start)) > "$folder/$part.status.json"
  [[ $part != build || $status == 0 ]] || break
done
"$python" tools/gpu_table.py "$folder" | tee "$folder/table.txt"
exit $failed
