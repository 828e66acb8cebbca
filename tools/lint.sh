#!/usr/bin/env bash
# Format and static checks: lint.sh BUILD_FOLDER (for its compile_commands.json).
set -euo pipefail
build=$(realpath "$1")
cd "$(dirname "$0")/.."
for tool in clang-format clang-tidy; do
  command -v $tool >/dev/null || { echo "lint: $tool is not installed (apt-get install $tool)" >&2; exit 1; }
done
mapfile -t sources < <(git ls-files 'src/*.h' 'src/*.cpp' 'src/*.cu' 'src/*.cuh' 'tests/*.h' 'tests/*.cpp' 'tests/*.cu' 'lab/*.cu')
clang-format --dry-run -Werror "${sources[@]}"
long=$(wc -l "${sources[@]}" | awk '$1 > 600 && $2 != "total" {print "  " $2 ": " $1 " lines"}')
[ -z "$long" ] || { printf 'lint: files over 600 lines:\n%s\n' "$long" >&2; exit 1; }
# Only what the build compiled: without CUDA its sources are not there.
mapfile -t units < <(git ls-files 'src/*.cpp' | while read -r unit; do
  grep -qF "$PWD/$unit\"" "$build/compile_commands.json" && echo "$unit"
done)
printf '%s\n' "${units[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p "$build" 2>/dev/null
echo "lint: ${#sources[@]} files clean"
