#!/bin/bash
# A piece of the CIFAR-10 studies on a CUDA GPU, under 9 minutes; call it until it says that all is done (exit 0).
#
#   studies/gpu.sh [STUDY]          default cifar10-gpu; exit 75: there is more to do, call it again
#
# MINUTES is the length of a piece, RUNS the folder of the runs, RESULTS that of the figures. Where OUT is set, the
# figures and the runs, of finished ones without their checkpoints, are left there as well; what an earlier
# piece left in IN is taken up first, so that a machine that forgets everything still gets on. WHEELS is a folder of
# packages to install first, where the machine lacks some and reaches no index (docs/scale.md).
set -uo pipefail
cd "$(dirname "$0")/.."
study=${1:-cifar10-gpu}
runs=${RUNS:-runs/study}
results=${RESULTS:-docs/results/studies}
python=${PYTHON:-python}
mkdir -p "$runs" "$results"
if [ -n "${WHEELS:-}" ]; then "$python" -m pip install -q --no-index --no-deps "$WHEELS"/*.whl || exit 1; fi
if [ -n "${IN:-}" ] && [ -d "$IN/runs" ]; then cp -rn "$IN/runs/." "$runs/"; fi
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m studies "$study" --until "${MINUTES:-8}" --device "${DEVICE:-cuda}" --runs "$runs" --results "$results"
status=$?
if [ -n "${OUT:-}" ]; then
  mkdir -p "$OUT/results" "$OUT/runs"
  cp "$results"/cifar10-*.json "$OUT/results/" 2>/dev/null
  for run in "$runs"/*/; do
    [ -d "$run" ] || continue
    name=$(basename "$run")
    mkdir -p "$OUT/runs/$name"
    # The last checkpoint of a run that is not finished is what the next piece continues from.
    if [ -f "$run/last.json" ]; then
      tar -C "$run" --exclude=checkpoint -cf - . | tar -C "$OUT/runs/$name" -xf -
    else
      tar -C "$run" -cf - . | tar -C "$OUT/runs/$name" -xf -
    fi
  done
fi
exit $status
