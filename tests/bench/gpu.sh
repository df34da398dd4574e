#!/usr/bin/env bash
# What a machine with a GPU can show of clear-audit, in nine minutes: OUT=folder tests/bench/gpu.sh [--dry] [PART …]
#
# Each part has a limit of its own, prints as it goes, and leaves PART.md in the folder that OUT names; gpu.md is all of them. What the
# machine lacks comes along in .gpu/packages.tar.xz, which `python -m tests.bench.packages` gathers; without it, whole audits are left out.
# Ends with the number of parts that failed. --dry: the same on a CPU, at small sizes.
set -u
cd "$(dirname "$0")/../.."
OUT=${OUT:?name a folder in OUT}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
dry=()
if [ "${1:-}" = --dry ]; then
  dry=(--dry)
  shift
fi
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(environment tests memory engine audit)

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -f .gpu/packages.tar.xz ]; then
  packages=$(mktemp -d)
  trap 'rm -rf "$packages"' EXIT
  "$PYTHON" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="data")' .gpu/packages.tar.xz "$packages"
  # Behind what the machine has: that was built for it.
  PYTHONPATH="$PYTHONPATH:$packages"
fi

limit() {
  case $1 in
    environment) echo 30 ;;
    tests) echo 60 ;;
    memory) echo 50 ;;
    engine) echo 230 ;;
    audit) echo 160 ;;
    *) echo 30 ;;
  esac
}

failed=0
for part in "${parts[@]}"; do
  echo "## $part" | tee "$OUT/$part.md"
  echo >> "$OUT/$part.md"
  timeout --kill-after=5 "$(limit "$part")" "$PYTHON" -m tests.bench.gpu "$part" "${dry[@]}" 2>&1 | tee -a "$OUT/$part.md"
  code=${PIPESTATUS[0]}
  if [ "$code" != 0 ]; then
    failed=$((failed + 1))
    echo "($part ended with code $code)" | tee -a "$OUT/$part.md"
  fi
  echo >> "$OUT/$part.md"
done
(for part in "${parts[@]}"; do cat "$OUT/$part.md"; done) > "$OUT/gpu.md"
exit "$failed"
