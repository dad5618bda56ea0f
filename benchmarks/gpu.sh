#!/bin/sh
# What a machine with a GPU is wanted for: the tests, the speeds, the rows of the table.
#
#     sh benchmarks/gpu.sh OUT tests speeds rows     # any of the three, in this order; what they found is then in the folder OUT
#
# Uses the python3 that is there, with the packages of `pip install '.[dev]'` as far as it has them. No step stops the others.
# Environment: SECONDS_TESTS, SECONDS_SPEEDS, SECONDS_ROWS (at most so long), WORKERS (trainings side by side), ROWS (survey:input[:models[:seed]] …).
set -u
cd "$(dirname "$0")/.." || exit 1
out=$1
shift
mkdir -p "$out"
export PYTHONPATH="$PWD/src:${PYTHONPATH:-}" PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
cores=$(nproc)
began=$(date +%s)

say() { echo "[$(($(date +%s) - began)) s] $*"; }

tests() {
    timeout "${SECONDS_TESTS:-150}" python3 -m pytest -q --maxfail=60 -n "$((cores > 2 ? cores - 2 : 1))" tests -p no:cacheprovider \
        >"$out/tests.log" 2>&1
    say "tests: rc $?"
    grep -E "^(FAILED|ERROR)" "$out/tests.log" | cut -c 1-150 | head -40
    tail -n 2 "$out/tests.log"
}

speeds() {
    limit=$(($(date +%s) + ${SECONDS_SPEEDS:-240}))
    left() { echo $((limit > $(date +%s) ? limit - $(date +%s) : 1)); }
    timeout "$(left)" python3 benchmarks/training.py --device cuda --tables pipeline --surveys model_i --models haloformer_c8_nano haloformer_nano resnet18 \
        --batch-size 256 --repeats 1 --images 32768 --table "$out/training.md" >"$out/training.log" 2>&1
    say "training: rc $?"
    grep '^|' "$out/training.log"
    timeout "$(left)" python3 benchmarks/fitting.py --gpu --quick --fused --out "$out/fitting.md" >"$out/fitting.log" 2>&1
    say "fitting: rc $?"
    tail -n 15 "$out/fitting.log" | cut -c 1-200
    timeout "$(left)" python3 benchmarks/simulation.py --gpu --quick --out "$out/simulation.md" >"$out/simulation.log" 2>&1
    say "simulation: rc $?"
    tail -n 20 "$out/simulation.log"
}

rows() {
    limit=$(($(date +%s) + ${SECONDS_ROWS:-300}))
    left() { echo $((limit > $(date +%s) ? limit - $(date +%s) : 1)); }
    for survey in $(for row in $ROWS; do echo "${row%%:*}"; done | sort -u); do
        timeout "$(left)" python3 benchmarks/table.py prepare "$survey" --workers "$cores"
        say "prepared $survey: rc $?"
    done >"$out/prepare.log" 2>&1
    tail -n 6 "$out/prepare.log"
    number=0
    for row in $ROWS; do
        number=$((number + 1))
        survey=$(echo "$row" | cut -d: -f1)
        given=$(echo "$row" | cut -d: -f2)
        models=$(echo "$row" | cut -s -d: -f3)
        seed=$(echo "$row" | cut -s -d: -f4)
        [ "$(left)" -gt 20 ] || break
        timeout -s INT -k 10 "$(left)" python3 benchmarks/table.py run "$survey" "$given" --models "${models:-*}" --seed "${seed:-0}" \
            --workers "${WORKERS:-8}" >"$out/rows-$number.log" 2>&1
        say "$row: rc $?"
        tail -n 2 "$out/rows-$number.log" | cut -c 1-150
    done
    tar -czf "$out/rows.tar.gz" --exclude=prepared --exclude='runs/benchmark/*/runs' runs/benchmark
    cat "$out"/rows-*.log >"$out/rows.log"
    rm -f "$out"/rows-*.log
}

for step in "$@"; do
    "$step"
done
