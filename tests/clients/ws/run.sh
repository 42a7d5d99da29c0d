#!/usr/bin/env bash
# Runs the Autobahn WebSocket cases against examples/ws_echo.rs.
#
#   tests/clients/ws/run.sh          every case but compression, which this server does not offer
#   tests/clients/ws/run.sh short    the same without the cases on throughput (9.*)
#
# Needs cargo, python3 with venv, and at the first run the Python package index: the fuzzing client is the
# package `kosoku`, which drives Autobahn's own case files. Reports: target/ws-conformance/index.html.
set -euo pipefail
cd "$(dirname "$0")/../../.."

scope=${1:-all}
case $scope in
    all) excluded=(-x '12.*' -x '13.*') cases_min=301 ;;
    short) excluded=(-x '12.*' -x '13.*' -x '9.*') cases_min=247 ;;
    *) echo "usage: $0 [all|short]" >&2; exit 2 ;;
esac

tools=.tools/kosoku
if ! [ -x "$tools/bin/kosoku" ]; then
    command -v python3 >/dev/null || { echo "python3 (3.10 or later) is needed" >&2; exit 1; }
    # Built aside and moved, so that a run that is cut off leaves nothing half done.
    building=$(mktemp -d .tools-kosoku.XXXXXX)
    trap 'rm -rf "$building"' EXIT
    python3 -m venv "$building/venv"
    "$building/venv/bin/pip" install --quiet --disable-pip-version-check \
        --only-binary :all: -r tests/clients/ws/requirements.txt
    mkdir -p .tools
    rm -rf "$tools"
    mv "$building/venv" "$tools"
    rm -rf "$building"
fi

cargo=${CARGO:-cargo}
out=target/ws-conformance/$scope
mkdir -p "$out"
: >"$out/echo.log"
"$cargo" build --quiet --example ws_echo
# `cargo run` becomes the program, so this is the number of the program itself.
"$cargo" run --quiet --example ws_echo -- 127.0.0.1:0 >"$out/echo.log" 2>&1 &
echo_pid=$!
trap 'kill "$echo_pid" 2>/dev/null || true; rm -rf "${building:-}"' EXIT

address=
for _ in $(seq 100); do
    address=$(sed -n 's/^listening on //p' "$out/echo.log")
    [ -z "$address" ] || break
    kill -0 "$echo_pid" 2>/dev/null || break
    sleep 0.1
done
[ -n "$address" ] || { echo "the echo program did not start:" >&2; cat "$out/echo.log" >&2; exit 1; }

# The moved environment is called through its interpreter: its scripts name the folder it was built in.
"$tools/bin/python" -c 'from kosoku._cli import main; main()' \
    -m fuzzingclient "$address" "${excluded[@]}" -p 4 -o "$out" | tee "$out/summary.log"

# A run that finds no cases must not pass.
passed=$(sed -n 's/ cases passed$//p' "$out/summary.log")
[ "${passed:-0}" -ge "$cases_min" ] || { echo "only ${passed:-0} of $cases_min cases ran" >&2; exit 1; }
