#!/usr/bin/env bash
# Installs a build into a scratch folder and builds a small program against it: check_install.sh BUILD_FOLDER
set -euo pipefail
build=$(realpath "$1")
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cmake --install "$build" --prefix "$scratch/prefix" >/dev/null
cmake -S tests/install -B "$scratch/build" -G Ninja -DCMAKE_PREFIX_PATH="$scratch/prefix" --log-level=ERROR
cmake --build "$scratch/build"
"$scratch/build/uses_kv8"
"$scratch/prefix/bin/kv8" --version
