#!/usr/bin/env bash
# The session of docs/living.md, typed by a script: bash examples/living/session.sh [EMPTY FOLDER]
# Needs codyra on the PATH and a few minutes; the moment of the kill is waited for, so that every run tells the same.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-living-session}" && cd "${1:-living-session}" || exit 1
cp "$here"/*.yaml .
export OMP_NUM_THREADS=1  # on a model this small a second thread gains little
python -c 'from pathlib import Path; from codyra.demo.stream import write_stream; write_stream(Path("pictures"), seed=8)'

say() { printf '\n$ %s\n' "$*"; }
type() { say "$@"; "$@"; local code=$?; [ $code -eq 0 ] || echo "[exit code $code]"; }

printf '\n## killed and continued\n'
say "codyra run first.yaml --out weekly &"
codyra run first.yaml --out weekly & pid=$!
until [ -e weekly/tasks/02-neon/checkpoint/state.safetensors ]; do sleep 0.1; done
type codyra run first.yaml --out weekly
say "kill -9 $pid"; kill -9 $pid; wait $pid 2>/dev/null
type ls weekly weekly/tasks/02-neon
type codyra run first.yaml --out weekly

printf '\n## history and verify\n'
type codyra history weekly
type codyra verify weekly

printf '\n## append\n'
type codyra append weekly --config more.yaml
type codyra history weekly

printf '\n## checkout, predict, export\n'
type codyra checkout weekly --after 2 --out model-of-last-week
say "python plain.py"
cat > plain.py <<'P'
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("model-of-last-week")
processor = AutoProcessor.from_pretrained("model-of-last-week")
print(type(model).__module__, type(processor).__name__)
P
python plain.py
type codyra predict model-of-last-week pictures/neon/test/rocket/000.png pictures/chalk/test/star/003.png --top 3
type codyra export weekly --task 3 --out adapter-3

printf '\n## a flipped byte\n'
say "printf x | dd of=weekly/tasks/02-neon/adapter_model.safetensors bs=1 seek=50000 conv=notrunc"
cp weekly/tasks/02-neon/adapter_model.safetensors good
printf x | dd of=weekly/tasks/02-neon/adapter_model.safetensors bs=1 seek=50000 conv=notrunc status=none
type codyra verify weekly
type codyra checkout weekly --out poisoned
cp good weekly/tasks/02-neon/adapter_model.safetensors

printf '\n## revert\n'
type codyra revert weekly --to 2
type codyra history weekly
type ls weekly/archive/02/tasks

printf '\n## guard\n'
type codyra run guarded.yaml --out guarded
type codyra run guarded.yaml --out guarded --set guard.on_violation=shrink
type codyra history guarded
