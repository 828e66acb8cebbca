#!/usr/bin/env python3
"""Independent reference of `kv8 import gguf` for SmolLM2-135M-Instruct.

    import_reference.py SmolLM2-135M-Instruct.Q4_1.gguf OUT_DIR [--golden]

Writes a Hugging Face folder (FP16 safetensors, tokenizer.json, configs) and, with --golden,
tests/data/golden/smollm2_import.json: the SHA-256 of each tensor's FP16 bytes.

Numbers: each GGUF block is dequantized in IEEE FP32 (Q4_1: d * q + m, where d * q is exact, so
one rounding and FMA gives the same; Q8_0: d * q, exact), then rounded once to FP16, ties to even.
GGUF interleaves the two rotary halves of every Q and K head; here they are put back.
"""

import argparse
import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

from common import GOLDEN, made_by, sha256, write_json

GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    rows, cols = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, cols)
    return pairs.swapaxes(1, 2).reshape(rows, cols)


def read_tensors(reader: gguf.GGUFReader, heads: int, kv_heads: int) -> dict:
    out = {}
    for tensor in reader.tensors:
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert value.dtype == np.float32
        if ".attn_q." in tensor.name:
            value = unpermute(value, heads)
        elif ".attn_k." in tensor.name:
            value = unpermute(value, kv_heads)
        out[hf_name(tensor.name)] = np.ascontiguousarray(value.astype(np.float16))
    return out


def make_config(field) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "head_dim": field("llama.embedding_length") // field("llama.attention.head_count"),
        "hidden_act": "silu",
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": field("llama.attention.head_count"),
        "num_hidden_layers": field("llama.block_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        # FP32 in the file; 1e-5 is the shortest decimal that rounds to the same FP32.
        "rms_norm_eps": float(np.format_float_scientific(
            np.float32(field("llama.attention.layer_norm_rms_epsilon")), unique=True)),
        "rope_scaling": None,
        "rope_theta": float(field("llama.rope.freq_base")),
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "vocab_size": field("llama.vocab_size"),
    }


def make_tokenizer(field) -> tuple[dict, dict]:
    tokens = field("tokenizer.ggml.tokens")
    types = field("tokenizer.ggml.token_type")
    control = int(gguf.TokenType.CONTROL)
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True}
             for i, (t, kind) in enumerate(zip(tokens, types)) if kind == control]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        # The "smollm" pre-tokenizer: every digit alone, then GPT-2's byte level.
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(tokens)},
            "merges": [m.split(" ") for m in field("tokenizer.ggml.merges")],
        },
    }
    token = lambda key: tokens[field(f"tokenizer.ggml.{key}_token_id")]
    config = {
        "add_bos_token": field("tokenizer.ggml.add_bos_token"),
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(a["id"]): {k: a[k] for k in ("content", "lstrip", "normalized", "rstrip",
                                             "single_word", "special")} for a in added},
        "bos_token": token("bos"),
        "chat_template": field("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": token("eos"),
        "model_max_length": field("llama.context_length"),
        "pad_token": token("padding"),
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": token("unknown"),
    }
    return tokenizer, config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("gguf")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--golden", action="store_true")
    args = parser.parse_args()
    with open(args.gguf, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise SystemExit(f"{args.gguf}: SHA-256 is {digest}, expected {GGUF_SHA256}")

    reader = gguf.GGUFReader(args.gguf)
    field = lambda key: reader.fields[key].contents()
    config = make_config(field)
    tensors = read_tensors(reader, config["num_attention_heads"], config["num_key_value_heads"])
    tokenizer, tokenizer_config = make_tokenizer(field)
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}

    args.out_dir.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out_dir / "model.safetensors", metadata={"format": "pt"})
    for name, value in (("config", config), ("tokenizer", tokenizer),
                        ("tokenizer_config", tokenizer_config), ("generation_config", generation)):
        text = json.dumps(value, indent=2, ensure_ascii=False)
        (args.out_dir / f"{name}.json").write_text(text + "\n", encoding="utf-8")

    if args.golden:
        vocab_text = "\n".join(tokenizer["model"]["vocab"])
        merges_text = "\n".join(" ".join(m) for m in tokenizer["model"]["merges"])
        write_json(GOLDEN / "smollm2_import.json", {
            "made_by": made_by(__file__, "gguf", "numpy", "safetensors"),
            "gguf_sha256": GGUF_SHA256,
            "rounding": "block dequantized in FP32, rounded once to FP16, ties to even",
            "config": config,
            "generation_config": generation,
            "tokenizer_config": tokenizer_config,
            "tokenizer_pre_tokenizer": tokenizer["pre_tokenizer"],
            "tokenizer_decoder": tokenizer["decoder"],
            "tokenizer_added_tokens": tokenizer["added_tokens"],
            "tokenizer_vocab_sha256": sha256(vocab_text.encode()),
            "tokenizer_merges_sha256": sha256(merges_text.encode()),
            "tokenizer_hash_rule": "tokens in id order (merges in rank order, 'left right'), "
                                   "joined by newline, UTF-8",
            "tensors": {name: {"dtype": "F16", "shape": list(t.shape), "sha256": sha256(t.tobytes())}
                        for name, t in sorted(tensors.items())},
        })


if __name__ == "__main__":
    main()
