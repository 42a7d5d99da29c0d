#!/usr/bin/env bash
# Runs the Autobahn WebSocket cases against examples/ws_echo.rs.
#
#   tests/clients/ws/run.sh          every case but compression, which this server does not offer
#   tests/clients/ws/run.sh short    the same without the cases on throughput (9.*)
#
# The fuzzing client is the package `kosoku`, which drives Autobahn's own case files; `make tools` installs
# it. Reports: target/ws-conformance/SCOPE/index.html.
set -euo pipefail
cd "$(dirname "$0")/../../.."

scope=${1:-all}
case $scope in
    all) excluded=(-x '12.*' -x '13.*') cases_min=301 ;;
    short) excluded=(-x '12.*' -x '13.*' -x '9.*') cases_min=247 ;;
    *) echo "usage: $0 [all|short]" >&2; exit 2 ;;
esac

client=.venv/bin/kosoku
[ -x "$client" ] || { echo "$client is missing; get it with: make tools" >&2; exit 1; }

cargo=${CARGO:-cargo}
out=target/ws-conformance/$scope
mkdir -p "$out"
: >"$out/echo.log"
"$cargo" build --quiet --example ws_echo
# `cargo run` becomes the program, so this is the number of the program itself.
"$cargo" run --quiet --example ws_echo -- 127.0.0.1:0 >"$out/echo.log" 2>&1 &
echo_pid=$!
trap 'kill "$echo_pid" 2>/dev/null || true' EXIT

address=
for _ in $(seq 100); do
    address=$(sed -n 's/^listening on //p' "$out/echo.log")
    [ -z "$address" ] || break
    kill -0 "$echo_pid" 2>/dev/null || break
    sleep 0.1
done
[ -n "$address" ] || { echo "the echo program did not start:" >&2; cat "$out/echo.log" >&2; exit 1; }

"$client" -m fuzzingclient "$address" "${excluded[@]}" -p 4 -o "$out" | tee "$out/summary.log"

# A run that finds no cases must not pass.
passed=$(sed -n 's/ cases passed$//p' "$out/summary.log")
[ "${passed:-0}" -ge "$cases_min" ] || { echo "only ${passed:-0} of $cases_min cases ran" >&2; exit 1; }
