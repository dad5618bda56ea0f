#!/bin/sh
# What a machine with a GPU is wanted for: the tests, the speeds, the rows of the table.
#
#     sh benchmarks/gpu.sh OUT prepare speeds tests_beside rows     # any steps, in this order; what they found is then in the folder OUT
#
#     prepare         images for the rows, on the CPU, beside the next steps
#     speeds          of SPEEDS: simulation, fitting, training
#     tests           of TESTS, by TEST_WORKERS processes; tests_beside: beside the next steps
#     rows            of ROWS, trainings of the table
#
# Uses the python3 that is there, with the packages of `pip install '.[dev]'` as far as it has them. No step stops the others.
# Environment: SECONDS_ALL, SECONDS_TESTS, SECONDS_SPEEDS (at most so long); SPEEDS, FITTING (options of fitting.py), TESTS, TEST_WORKERS;
# WORKERS (trainings side by side, of each stream), ROWS (survey:input[:models[:seed]] …; a semicolon between streams that go on side by
# side).
set -u
cd "$(dirname "$0")/.." || exit 1
out=$1
shift
mkdir -p "$out" runs/benchmark
export PYTHONPATH="$PWD/src:${PYTHONPATH:-}" PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
cores=$(nproc)
began=$(date +%s)
beside=

say() { echo "[$(($(date +%s) - began)) s] $*"; }

# Seconds that are left, of all or of so many, less some for the end.
left() { echo $((began + ${1:-${SECONDS_ALL:-600}} - ${2:-15} - $(date +%s))); }

tests() {
    timeout "${SECONDS_TESTS:-150}" python3 -m pytest -q --maxfail=60 -n "${TEST_WORKERS:-$((cores > 2 ? cores - 2 : 1))}" ${TESTS:-tests} \
        --durations=10 -p no:cacheprovider >"$out/tests.log" 2>&1
    say "tests: rc $?"
    grep -E "^(FAILED|ERROR)" "$out/tests.log" | cut -c 1-150 | head -40
    tail -n 2 "$out/tests.log"
}

tests_beside() {
    tests &
    beside="$beside $!"
}

speeds() {
    for speed in ${SPEEDS:-simulation fitting training}; do
        seconds=$(left "${SECONDS_SPEEDS:-240}" 0)
        [ "$seconds" -gt 10 ] || break
        case $speed in
        training)
            set -- training.py --device cuda --tables pipeline --surveys model_i --models haloformer_c8_nano haloformer_nano resnet18 \
                --batch-size 256 --repeats 1 --images 32768 --table
            ;;
        fitting) set -- fitting.py --gpu --quick ${FITTING:---fused} --out ;;
        *) set -- "$speed.py" --gpu --quick --out ;;
        esac
        script=$1
        shift
        timeout "$seconds" python3 "benchmarks/$script" "$@" "$out/$speed.md" >"$out/$speed.log" 2>&1
        say "$speed: rc $?"
        tail -n 22 "$out/$speed.log" | cut -c 1-200
    done
}

prepare() {
    for survey in $(echo "$ROWS" | tr ' ;' '\n\n' | cut -d: -f1 | awk 'NF && !seen[$1]++'); do
        ready=runs/benchmark/.prepared-$survey
        [ -e "$ready" ] && continue
        python3 benchmarks/table.py prepare "$survey" --workers "$((cores > 6 ? cores - 4 : cores))" && touch "$ready"
        say "prepared $survey: rc $?"
    done >"$out/prepare.log" 2>&1 &
    preparing=$!
}

rows() {
    share_gpu
    [ "${preparing:-}" ] || prepare
    number=0 streams=
    set -f # patterns are networks' names, no files'
    old=$IFS
    IFS=';'
    for stream in $ROWS; do
        IFS=$old
        number=$((number + 1))
        stream $stream >"$out/rows-$number.log" 2>&1 &
        streams="$streams $!"
    done
    IFS=$old
    wait $streams
    set +f
    cat "$out/prepare.log" "$out"/rows-*.log | grep -E "^\[" | cut -c 1-110
    for folder in runs/benchmark/*-*/; do
        tar -czf "$out/$(basename "$folder").tar.gz" --exclude=runs -C runs/benchmark "$(basename "$folder")"
    done
}

# One row, or pattern of rows, after the other.
stream() {
    for row in "$@"; do
        survey=$(echo "$row" | cut -d: -f1)
        given=$(echo "$row" | cut -d: -f2)
        models=$(echo "$row" | cut -s -d: -f3)
        seed=$(echo "$row" | cut -s -d: -f4)
        while [ ! -e "runs/benchmark/.prepared-$survey" ] && kill -0 "$preparing" 2>/dev/null && [ "$(left)" -gt 20 ]; do sleep 1; done
        [ "$(left)" -gt 20 ] || break
        timeout -k 5 "$(left)" python3 benchmarks/table.py run "$survey" "$given" --models "${models:-*}" --seed "${seed:-0}" --workers "${WORKERS:-8}"
        say "$row: rc $?"
    done
}

# Lets the kernels of several trainings run at the same time, where NVIDIA's multi-process service is there and works.
share_gpu() {
    command -v nvidia-cuda-mps-control >/dev/null || return 0
    export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps CUDA_MPS_LOG_DIRECTORY=/tmp/mps
    mkdir -p /tmp/mps
    nvidia-cuda-mps-control -d >/dev/null 2>&1
    if timeout 60 python3 -c "import torch; assert float(torch.ones(2, device='cuda').sum()) == 2" 2>/dev/null; then
        say "trainings share the GPU by its multi-process service"
        trap 'echo quit | timeout 20 nvidia-cuda-mps-control >/dev/null 2>&1' EXIT
    else
        echo quit | timeout 20 nvidia-cuda-mps-control >/dev/null 2>&1
        unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
        say "the GPU's multi-process service is there, but does not work"
    fi
}

for step in "$@"; do
    "$step"
done
for process in $beside; do wait "$process"; done
(cd "$out" && tar -czf logs.tar.gz ./*.log && rm -f ./*.log)
