#!/bin/sh
# GPU measurements and tests in one command, for a machine that is lent for a quarter of an hour:
#
#     sh tests/gpu/all.sh OUT
#
# `rellm doctor`, `rellm bench` and the tests of this folder; then three steps under caps of 6, 8
# and 12 GB, and the comparison with a naive step. What each prints goes to OUT/*.txt, figures to
# OUT/*.json, and the rows for docs/what-it-costs.md to OUT/rows.md. Nothing is downloaded: an LLM
# that is not there has random weights of its shape. A part that fails does not stop the others.
#
# PYTHON: the interpreter. RECIPE: of `rellm bench`. GPU_OPTIONS: of tests/benchmarks/gpu.py.

set -u
out=${1:?expected a folder for the results}
python=${PYTHON:-python}
export HF_HUB_OFFLINE=1
mkdir -p "$out"
failed=""

part() {
    name=$1
    shift
    echo "== $name"
    if ! timeout 420 "$@" >"$out/$name.txt" 2>&1; then failed="$failed $name"; fi
    tail -n 30 "$out/$name.txt"
}

part doctor "$python" -m rellm_cache.cli doctor --offline --cache "$out"
part bench "$python" -m rellm_cache.cli bench --recipe "${RECIPE:-re-llm}" --json "$out/bench.json"
part tests "$python" -m pytest tests/gpu -q -n 0 -p no:cacheprovider
# shellcheck disable=SC2086  # several words
part caps "$python" tests/benchmarks/gpu.py --json "$out/gpu.json" ${GPU_OPTIONS:-}
grep -h '^| ' "$out/bench.txt" "$out/caps.txt" >"$out/rows.md"
echo "== rows"
cat "$out/rows.md"
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
