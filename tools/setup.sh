#!/usr/bin/env bash
# Installs what kv8 is built with, where it is missing: packages of Debian 12 or Ubuntu 24.04, and a
# Python environment in .venv for the tests that compare with ONNX Runtime. Prints what it installs.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  build-essential cmake ninja-build pkg-config git
  protobuf-compiler libprotobuf-dev nlohmann-json3-dev libcli11-dev libfmt-dev libssl-dev
  libpcre2-dev libutf8proc-dev libhwy-dev libopenblas-dev libgtest-dev libgmock-dev
  libbenchmark-dev
  python3 python3-pip python3-venv
)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
  if ! command -v apt-get >/dev/null; then
    echo "kv8: apt-get not found. Install these packages' counterparts by hand: ${missing[*]}" >&2
    exit 1
  fi
  echo "kv8: installing ${#missing[@]} packages: ${missing[*]}"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    as_root=(sudo)
    echo "kv8: this needs administrator rights (sudo)"
  fi
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

stamp=.venv/requirements.installed
if ! cmp -s tools/requirements.txt "$stamp"; then
  echo "kv8: installing $(tr '\n' ' ' < tools/requirements.txt)into .venv (used by tests only)"
  python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r tools/requirements.txt
  cp tools/requirements.txt "$stamp"
fi
