#!/bin/sh
# Fuzzes each target for FUZZ_SECONDS (60) and says what came of it: executions, edges covered, inputs worth keeping, findings.
# Usage: fuzz.sh TARGET_DIRECTORY TARGET...
set -eu

seconds=${FUZZ_SECONDS:-60}
cargo=${CARGO:-cargo}
directory=$1
shift

mkdir -p "$directory"
"$cargo" fuzz --version >/dev/null 2>&1 || "$cargo" install cargo-fuzz --locked
BENNU_FUZZ_CORPUS=fuzz/corpus "$cargo" test --quiet --test fuzz seeds_and_dictionary

# Without a sanitizer it builds with a stable toolchain: the code has no `unsafe`; overflow checks and assertions are on.
found=0
for target in "$@"; do
    log=$directory/$target.log
    printf 'fuzzing %s for %s s\n' "$target" "$seconds"
    outcome=0
    "$cargo" fuzz run --sanitizer none --target-dir "$directory" "$target" -- -max_total_time="$seconds" \
        -dict=fuzz/corpus/wire.dict -malloc_limit_mb=64 -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 >"$log" 2>&1 || outcome=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    corpus=$(sed -n 's/.* corp: \([0-9]*\)\/.*/\1/p' "$log" | tail -1)
    if [ "$outcome" -eq 0 ]; then
        finding='nothing found'
    else
        finding="FAILED, see $log; put the input into fuzz/regressions/$target/ when it is mended"
        found=1
    fi
    printf '%-12s %10s executions, %6s edges, %5s inputs: %s\n' \
        "$target" "${executions:-no}" "${covered:-no}" "${corpus:-no}" "$finding"
done
exit "$found"
