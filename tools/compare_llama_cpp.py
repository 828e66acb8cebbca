#!/usr/bin/env python3
"""Side by side with llama.cpp on the CPU: prefill and decode tokens/s, same weights.

    pip install llama-cpp-python==0.3.36 gguf==0.19.0 safetensors numpy
    tools/compare_llama_cpp.py CHECKPOINT --kv8 build/cpu/bin/kv8 --out docs/results/llama_cpp.json

CHECKPOINT (what `kv8 quantize llm` writes) is turned into an F16 GGUF file at --gguf, once.
llama.cpp runs with f16 KV and with q8_0 KV (flash attention on, which q8_0 values need), kv8 with
FP16 and FP8 KV. The programs take turns, --rounds times, because a shared machine is faster at some
times than at others; medians are compared.

Prefill: --prefill tokens from an empty cache in one batch, logits of the last. Decode: --decode
tokens one by one after that prefill. Loading and one warm-up of each are not counted.
"""

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

GGUF_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP_NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}


def gguf_name(name: str) -> str:
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[rest.removesuffix('.weight')]}.weight"


def interleave_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF's llama rotates neighbours, Hugging Face the two halves of a head."""
    rows, cols = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def write_gguf(folder: Path, out: Path) -> None:
    import gguf
    from safetensors.numpy import load_file
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "llama":
        raise SystemExit(f"{folder}: model_type is {config['model_type']}, only llama is converted")
    if config.get("rope_scaling"):
        raise SystemExit(f"{folder}: rope_scaling is not converted")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(folder.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config.get("head_dim", config["hidden_size"] // heads))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    # Ids are fed directly; the vocabulary only has to have the right size.
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = sorted(tokenizer["model"]["vocab"].items(), key=lambda entry: entry[1])
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_types([gguf.TokenType.NORMAL] * len(vocab))
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for name, value in load_file(folder / "model.safetensors").items():
        if not name.endswith((".weight", ".bias")):  # scales of the KV cache, which GGUF has no place for
            continue
        if ".q_proj." in name:
            value = interleave_halves(value, heads)
        elif ".k_proj." in name:
            value = interleave_halves(value, kv_heads)
        value = value.astype(np.float32 if value.ndim == 1 else np.float16)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    def __init__(self, gguf_path: Path, kv: str, args):
        import llama_cpp
        self.api, self.args = llama_cpp, args
        kind = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}[kv]
        self.model = llama_cpp.Llama(
            str(gguf_path), n_ctx=args.prefill + args.decode + 64, n_batch=args.prefill,
            n_ubatch=args.prefill, n_threads=args.threads, n_threads_batch=args.threads,
            type_k=kind, type_v=kind, flash_attn=kv == "q8_0", verbose=False)
        vocab = self.model.n_vocab()
        rng = np.random.default_rng(0)
        self.ids = (llama_cpp.llama_token * args.prefill)(*rng.integers(17, vocab, args.prefill).tolist())
        self.measure()  # warm-up

    def step(self, ids, count: int) -> None:
        ctx = self.model.ctx
        if self.api.llama_decode(ctx, self.api.llama_batch_get_one(ids, count)) != 0:
            raise SystemExit("llama_decode failed")
        self.api.llama_synchronize(ctx)

    def measure(self) -> dict:
        ctx = self.model.ctx
        self.api.llama_memory_clear(self.api.llama_get_memory(ctx), True)
        start = time.perf_counter()
        self.step(self.ids, self.args.prefill)
        middle = time.perf_counter()
        one = (self.api.llama_token * 1)(42)
        for _ in range(self.args.decode):
            self.step(one, 1)
        end = time.perf_counter()
        return {"prefill_tokens_per_s": self.args.prefill / (middle - start),
                "decode_tokens_per_s": self.args.decode / (end - middle)}


def run_kv8(args) -> dict:
    """Both caches' rows of one `kv8 bench model` run, by KV type."""
    words = [str(args.kv8), "bench", "model", "--backend", "cpu", "--checkpointDir", str(args.model),
             "--promptTokens", str(args.prefill), "--batch", "1",
             "--context", str(args.prefill + args.decode), "--decodeTokens", str(args.decode),
             "--threads", str(args.threads), "--repeats", "1", "--json", "-"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: exit status {done.returncode}\n{done.stderr.strip()}")
    rates = {}
    for row in json.loads(done.stdout)["rows"]:
        rates.setdefault(row["kv_dtype"], {})[f"{row['phase']}_tokens_per_s"] = row["tokens_per_s"]
    return rates


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def print_table(summary: dict) -> None:
    print(f"| {'program and KV cache':22} | prefill, tokens/s | decode, tokens/s |")
    print(f"|{'-' * 24}|------------------:|-----------------:|")
    for name, row in summary.items():
        print(f"| {name:22} | {row['prefill_tokens_per_s']:17.1f} | {row['decode_tokens_per_s']:16.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--gguf", type=Path, default=Path(tempfile.gettempdir()) / "kv8_compare_f16.gguf")
    parser.add_argument("--kv8", type=Path, required=True, help="the program kv8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not args.gguf.exists():
        unfinished = args.gguf.with_name(args.gguf.name + ".part")
        write_gguf(args.model, unfinished)
        unfinished.rename(args.gguf)

    llama = {kv: LlamaCpp(args.gguf, kv, args) for kv in ("f16", "q8_0")}
    rounds = {name: [] for name in ("llama.cpp, f16 KV", "kv8, FP16 KV", "llama.cpp, q8_0 KV", "kv8, FP8 KV")}
    for _ in range(args.rounds):
        rounds["llama.cpp, f16 KV"].append(llama["f16"].measure())
        rounds["llama.cpp, q8_0 KV"].append(llama["q8_0"].measure())
        ours = run_kv8(args)
        rounds["kv8, FP16 KV"].append(ours["fp16"])
        rounds["kv8, FP8 KV"].append(ours["fp8"])
    summary = {name: {key: statistics.median(r[key] for r in rows) for key in rows[0]}
               for name, rows in rounds.items()}
    print_table(summary)
    if args.out:
        import llama_cpp
        report = {"made_by": "tools/compare_llama_cpp.py", "llama_cpp_python": llama_cpp.__version__,
                  "cpu": cpu_name(), "threads": args.threads, "prefill_tokens": args.prefill,
                  "decode_tokens": args.decode, "model": args.model.name, "medians": summary,
                  "rounds": rounds}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
