#!/usr/bin/env bash
# Runs every fuzz target for a fixed time: bytes that somebody else may have written, parsed and read.
#
#     scripts/fuzz.sh [SECONDS]      for each target (default: 30)
#
# ONLY=NAME runs the targets whose name it matches, a regular expression. Corpora start from fuzz/seeds and grow in fuzz/corpus; an
# input that failed lies in fuzz/artifacts. cargo-fuzz is installed into target/tools where it is not there. It needs g++, and no
# nightly compiler. The last line is "N passed, N failed": targets.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-30}
target=$PWD/target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
export PATH=$PWD/target/tools/bin:$PATH CARGO_TERM_COLOR=never
# The stable compiler instruments, too.
export RUSTC_BOOTSTRAP=1

command -v cargo-fuzz >/dev/null || cargo install --locked --root target/tools cargo-fuzz
# Without a sanitizer: all of this is safe Rust, and what counts is panics, wrong answers and endless loops.
cargo fuzz build --sanitizer none --target-dir "$target"

# Files that targets make: in memory where that is possible.
tmp=$(mktemp -d "$([ -d /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")/kmsfs-fuzz.XXXXXX")
trap 'rm -rf --one-file-system "$tmp"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0
for source in fuzz/fuzz_targets/*.rs; do
    name=$(basename "$source" .rs)
    [[ $name =~ ${ONLY:-.} ]] || continue
    mkdir -p "fuzz/corpus/$name" "fuzz/artifacts/$name"
    seeds=()
    [ ! -d "fuzz/seeds/$name" ] || seeds=("fuzz/seeds/$name")
    status=0
    TMPDIR=$tmp timeout --kill-after=10 $((seconds + 60)) "$target/$host/release/$name" \
        -max_total_time="$seconds" -timeout=20 -artifact_prefix="fuzz/artifacts/$name/" \
        "fuzz/corpus/$name" ${seeds[@]+"${seeds[@]}"} >"$tmp/log" 2>&1 </dev/null || status=$?
    runs=$(grep -Eo '^Done [0-9]+ runs' "$tmp/log" | tail -n 1 || true)
    if [ "$status" -eq 0 ] && [ -n "$runs" ]; then
        passed=$((passed + 1))
        echo "ok      $name: ${runs#Done }"
    else
        failed=$((failed + 1))
        echo "FAILED  $name (status $status)"
        grep -vE '^#|NEW_FUNC' "$tmp/log" | tail -n 30 | sed 's/^/        /'
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
