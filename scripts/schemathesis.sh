#!/usr/bin/env bash
# schemathesis against the mock: requests made from its OpenAPI document, good and bad. No answer may be a 5xx, and none may be
# outside the document.
#
#     scripts/schemathesis.sh [KMS_MOCK]      the binary (default: target/release/kms-mock)
#
# Needs python3 with venv; schemathesis itself comes from PyPI into target/tools. The last line is "N passed, N failed": APIs.
set -euo pipefail
cd "$(dirname "$0")/.."
mock=$(realpath "${1:-target/release/kms-mock}")
version=4.32.5
venv=$PWD/target/tools/schemathesis-$version

[ -x "$venv/bin/schemathesis" ] || {
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/schemathesis.XXXXXX")
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$tmp"' EXIT
export KMS_ACCESS_KEY=AKSCHEMATHESIS01
KMS_SECRET_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export KMS_SECRET_KEY
KMS_MOCK_SECRET_KEY=$KMS_SECRET_KEY "$mock" serve --in-memory --access-key "$KMS_ACCESS_KEY" --listen 127.0.0.1:0 \
    >"$tmp/ready" &
pid=$!
for _ in $(seq 100); do
    [ ! -s "$tmp/ready" ] || break
    sleep 0.1
done
KMS_ENDPOINT=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["listening"])' "$tmp/ready")
export KMS_ENDPOINT

status=0
(
    # It keeps what it learns in the directory that it runs in.
    cd "$tmp"
    PYTHONPATH=$OLDPWD/kms-mock/examples:$OLDPWD/kms-mock/tests/schemathesis PYTHONDONTWRITEBYTECODE=1 \
        SCHEMATHESIS_HOOKS=hooks NO_COLOR=1 timeout --kill-after=30 "${LIMIT:-10m}" \
        "$venv/bin/schemathesis" run "$KMS_ENDPOINT/__mock/openapi.json" --url "$KMS_ENDPOINT" \
        --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
        --phases examples,coverage,fuzzing --max-examples "${EXAMPLES:-50}" --seed "${SEED:-1}" --generation-deterministic \
        --report junit --report-junit-path "$tmp/junit.xml" --request-timeout 30
) || status=$?
[ -s "$tmp/junit.xml" ] || exit "$status"
python3 - "$tmp/junit.xml" <<'PYTHON'
import json
import os
import sys
import urllib.request
import xml.etree.ElementTree as tree

with urllib.request.urlopen(os.environ["KMS_ENDPOINT"] + "/__mock/calls?since=0") as answer:
    calls = json.load(answer)["calls"]
called = {call["api"] for call in calls}
succeeded = {call["api"] for call in calls if call["code"] == "0"}
print(f"succeeded at least once: {len(succeeded)} of {len(called)} APIs; never: {', '.join(sorted(called - succeeded))}")

cases = list(tree.parse(sys.argv[1]).getroot().iter("testcase"))
failed = sum(any(child.tag in ("failure", "error") for child in case) for case in cases)
if len(succeeded) * 2 < len(called):
    print("the requests lead nowhere: see kms-mock/tests/schemathesis/hooks.py")
    failed += 1
print(f"{len(cases) - failed} passed, {failed} failed")
sys.exit(failed > 0 or not cases)
PYTHON
exit "$status"
