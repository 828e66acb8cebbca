#!/usr/bin/env bash
# model_table.sh KV8 FOLDER: times every geometry on the GPU at hand (about two minutes on an H100) and writes FOLDER/model.json,
# the table of docs/results/<gpu>/model.json. CUPTI's folder must be on LD_LIBRARY_PATH.
set -euo pipefail
kv8=$1 out=$2
here=$(dirname "$0")
mkdir -p "$out"
names=()

bench() {  # NAME OPTIONS…
  local name=$1
  shift
  "$kv8" bench model --backend cuda --kernels "$@" --json "$out/$name.json"
  names+=("$out/$name.json")
  python3 "$here/merge_model_results.py" "${names[@]}" --out "$out/model.json"  # what there is, should a time limit strike
}

bench qwen3-8b --geometry qwen3-8b --promptTokens 2048,8192 --batch 1,8,32 --context 4096 --decodeTokens 16 --repeats 6
bench qwen3-8b-full --geometry qwen3-8b --batch 8 --context 32768 --fullMemory 8192,32768 --decodeTokens 8 --repeats 4
bench llama-3.2-1b --geometry llama-3.2-1b --promptTokens 4096 --batch 1,1,8,32 --context 1024,4096,4096,4096 --decodeTokens 16 --repeats 6
bench qwen3-8b-mixed --geometry qwen3-8b --batch 32 --context 4096 --mixedChunk 512 --decodeTokens 8 --repeats 4
for geometry in llama-3.1-8b qwen2.5-7b llama-3.2-3b qwen3-0.6b qwen2.5-0.5b smollm2-135m; do
  bench "$geometry" --geometry "$geometry" --promptTokens 4096 --batch 1,8,32 --context 4096 --decodeTokens 16 --repeats 4
done
python3 "$here/merge_model_results.py" "${names[@]}" --out "$out/model.json" --table
