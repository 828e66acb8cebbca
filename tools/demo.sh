#!/usr/bin/env bash
# The whole chain on SmolLM2-135M-Instruct: demo.sh BIN_FOLDER. Everything lands in build/demo.
set -euo pipefail
bin=$(realpath "$1")
cd "$(dirname "$0")/.."
model=build/models/SmolLM2-135M-Instruct
out=build/demo
rm -rf "$out"
mkdir -p "$out"

step() {
  printf '\n== %s\n$ %s\n' "$1" "${*:2}"
  PATH="$bin:$PATH" "${@:2}"
}
step "calibrate on the built-in text, write a checkpoint with FP8 KV scales" \
  kv8 quantize llm --model_dir "$model" --output_dir "$out/checkpoint" --kv_cache_quantization fp8
step "export it as ONNX" \
  kv8 export "$out/checkpoint" "$out/onnx"
step "build an engine for this machine" \
  llm_build --onnxDir "$out/onnx/llm" --engineDir "$out/engine" --maxBatchSize 4 --backend cpu
step "answer a request file" \
  llm_inference --engineDir "$out/engine" --inputFile tests/test_cases/llm_basic.json \
  --outputFile "$out/output.json" --profileOutputFile "$out/profile.json" --dumpOutput
step "FP16 KV against FP8 KV" \
  kv8 eval "$out/checkpoint" --speed --json "$out/summary.json"
echo
echo "Answers: $out/output.json   figures: $out/summary.json"
echo "Try: $bin/kv8 run --engineDir $out/engine --prompt \"Why is the sky blue?\""
