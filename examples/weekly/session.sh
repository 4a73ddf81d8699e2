#!/usr/bin/env bash
# The session of docs/weekly.md, typed by a script: bash examples/weekly/session.sh MODEL [EMPTY FOLDER]
# MODEL is the directory of a causal language model, as benchmarks/tiny_llama.py writes a small one. Needs codyra with the
# extra [harness] on the PATH.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
model=$(realpath "$1")
mkdir -p "${2:-weekly-session}" && cd "${2:-weekly-session}" || exit 1
cp -r "$here"/*.yaml "$here"/*.jsonl "$here"/general "$here"/tasks .
ln -s "$model" small-llama
export OMP_NUM_THREADS=1  # on a model this small a second thread gains little

say() { printf '\n$ %s\n' "$*"; }
type() { say "$@"; "$@"; local code=$?; [ $code -eq 0 ] || echo "[exit code $code]"; }

printf '\n## a file a week: every fifth record is kept for scoring\n'
split() {
    mkdir "$1"
    awk 'NR % 5 == 0' "$1.jsonl" > "$1/test.jsonl"
    awk 'NR % 5' "$1.jsonl" > "$1/train.jsonl"
}
split week-31
split week-32

printf '\n## the first week\n'
type cat weekly.yaml
type codyra run weekly.yaml --dry-run
type codyra run weekly.yaml --out desk
type codyra history desk

printf '\n## what went wrong\n'
say "grep '\"score\": 0' desk/tasks/01-week-31/predictions.jsonl | head -n 3"
grep '"score": 0' desk/tasks/01-week-31/predictions.jsonl | head -n 3

printf '\n## the next week\n'
type codyra append desk --config next.yaml
type codyra history desk

printf '\n## what became of everything else\n'
type codyra eval desk --harness general --include-path tasks --after 0 --after 1 --after 2

printf '\n## in use\n'
type codyra checkout desk --out model
type codyra predict model "The charger at the station is dead." "I need a receipt for the bell." --label-space week-32
cat > plain.py <<'P'
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("model"), AutoTokenizer.from_pretrained("model")
batch = tokenizer("The charger at the station is dead.\n", return_tensors="pt")
written = model.generate(**batch, do_sample=False, max_new_tokens=8)
print(tokenizer.decode(written[0, batch["input_ids"].shape[1] :], skip_special_tokens=True))
P
say "python plain.py"
python plain.py 2> /dev/null
type codyra export desk --task 2 --out adapter-32

printf '\n## a week taken back\n'
type codyra revert desk --to 1
type codyra verify desk

printf '\n## a guard\n'
guard='guard={data: "json:general", tolerance: 5}'
type codyra run weekly.yaml --out guarded --set "$guard"
type codyra run weekly.yaml --out guarded --set "$guard" --set guard.on_violation=shrink
