#!/usr/bin/env bash
# A network of timm's at 64 pixels, from natural training to robust fine-tuning and distillation, and one of ours beside it.
#   studies/timm-64.sh CIFAR10_FOLDER OUT      (parquet files train-*, test-*; extra zoo; goes on where it was stopped)
# No pretrained weights are downloaded: the first run takes their place.
set -euo pipefail
data=$1 out=$2
mkdir -p "$out"
part="$out/data"
[ -d "$part" ] || python - "$data" "$part" <<'PYTHON'
"""Writes every tenth training image and the whole test part."""
import sys
from pathlib import Path

import pyarrow.parquet as pq

source, part = map(Path, sys.argv[1:])
train, test = (pq.read_table(next(source.glob(f"{split}-*.parquet"))) for split in ("train", "test"))
made = part.with_name("making")
made.mkdir(exist_ok=True)
pq.write_table(train.take(list(range(0, len(train), 10))), made / "train-0.parquet")
pq.write_table(test, made / "test-0.parquet")
made.rename(part)
PYTHON

run() { # NAME STUDENT METHOD EPOCHS MORE...
    local name=$1 student=$2 method=$3 epochs=$4
    shift 4
    cat >"$out/$name.yaml" <<YAML
name: $name
data: {kind: parquet, path: $part, form: {size: 64}}
augment: {crop: 8, flip: true}
normalise: data
threat: {norm: linf, eps: 4/255}
student: $student
method: $method
training:
  epochs: $epochs
  batch: 128
  optimiser: {kind: sgd, lr: 0.05, momentum: 0.9, weight_decay: 0.0005}
  schedule: {kind: triangular, peak: 0.3}
  clip: 1
  averaging: {kind: ema, decay: 0.98}
selection: {fraction: 0.05, every: 5}
YAML
    [ -f "$out/$name/evaluation.json" ] && return
    overproof train "$out/$name.yaml" --out "$out/$name" --resume "$@"
    overproof evaluate "$out/$name" --attacks quick --examples 500
}

# Ours is the family of about as many multiply-adds: 7.3 million, where our MobileNetV2 (width 0.35) needs 54 million.
theirs=timm:mobilenetv3_small_100 ours='{kind: convnet, channels: [16, 32, 64, 128], hidden: [128]}'
run natural "$theirs" '{kind: natural}' 15
run finetuned "$theirs" '{kind: trades, beta: 6, inner: {steps: 5}}' 8 --set "init=$out/natural"
teacher=(--set "teachers.robust=$out/finetuned")
run distilled "$theirs" '{kind: rslad, inner: {steps: 5}}' 8 --set "init=$out/natural" "${teacher[@]}"
run ours-natural "$ours" '{kind: natural}' 15
run ours-finetuned "$ours" '{kind: trades, beta: 6, inner: {steps: 5}}' 8 --set "init=$out/ours-natural"
run ours-distilled "$ours" '{kind: rslad, inner: {steps: 5}}' 8 --set "init=$out/ours-natural" "${teacher[@]}"
for name in distilled ours-distilled; do
    [ -f "$out/$name/model.onnx" ] || overproof export "$out/$name" --to onnx --out "$out/$name/model.onnx"
done
overproof compare "$out"/{natural,finetuned,distilled,ours-natural,ours-finetuned,ours-distilled}
