"""Tiny random-weight checkpoints of the families kv8 reads: tests/data/models/<name>/.

config.json is written by hand, in the spelling that published checkpoints use. Weights are drawn
so that every layer matters: attention is neither uniform nor one-hot, heads differ in size (the
last KV head is 8 times the first), norms differ from 1, and Qwen2's K biases are large.
"""

import json
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from common import DATA

MODELS = DATA / "models"


def llama(**fields) -> dict:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
            "attention_dropout": 0.0, "mlp_bias": False, "hidden_act": "silu", "bos_token_id": 1,
            "eos_token_id": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
            "torch_dtype": "float16", **fields}


CONFIGS = {
    "llama3": llama(
        hidden_size=96, intermediate_size=128, num_attention_heads=3, num_key_value_heads=1,
        num_hidden_layers=2, vocab_size=320, max_position_embeddings=2048, rope_theta=500000.0,
        eos_token_id=[2, 5],
        rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                      "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
    # The older key "type", as Llama-2 derivatives have it.
    "llama2_linear": llama(
        hidden_size=64, intermediate_size=128, num_attention_heads=2, num_key_value_heads=2,
        num_hidden_layers=3, vocab_size=288, max_position_embeddings=256, rope_theta=10000.0,
        rope_scaling={"type": "linear", "factor": 4.0}),
    "llama_yarn": llama(
        hidden_size=64, intermediate_size=128, num_attention_heads=2, num_key_value_heads=1,
        num_hidden_layers=2, vocab_size=256, max_position_embeddings=512, rope_theta=10000.0,
        rope_scaling={"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64,
                      "beta_fast": 32.0, "beta_slow": 1.0}),
    # BF16, head_dim given and not hidden / heads, rope_parameters and dtype as transformers 5 writes.
    "mistral": {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu",
        "hidden_size": 64, "intermediate_size": 112, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 2, "vocab_size": 272,
        "max_position_embeddings": 1024, "sliding_window": None, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16",
        "attention_dropout": 0.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
        "hidden_size": 128, "intermediate_size": 96, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_hidden_layers": 2, "vocab_size": 264,
        "max_position_embeddings": 1024, "sliding_window": 1024, "max_window_layers": 2,
        "use_sliding_window": False, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
        "torch_dtype": "float16", "attention_dropout": 0.0},
    # Two shards and an index.
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
        "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 3, "vocab_size": 280,
        "max_position_embeddings": 1024, "max_window_layers": 3, "use_sliding_window": False,
        "sliding_window": None, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "rope_scaling": None, "attention_bias": False, "tie_word_embeddings": True,
        "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float16", "attention_dropout": 0.0},
}
SHARDED = {"qwen3": 2}


def dtype_of(config: dict) -> torch.dtype:
    return getattr(torch, config.get("torch_dtype", config.get("dtype")))


def make_weights(name: str, config: dict) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    hidden, inner, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config.get("head_dim", hidden // heads)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    matrix = lambda rows, cols, gain=1.0: draw(rows, cols) * gain / cols**0.5
    norm = lambda size, spread=0.2: 1.0 + spread * draw(size).clamp(-2, 2)
    # From 1 for the first KV head to 8 for the last.
    sizes = (8.0 ** (torch.arange(kv_heads, dtype=torch.float64) / max(kv_heads - 1, 1)))
    rows_of_heads = sizes.repeat_interleave(dim)[:, None]

    out = {"model.embed_tokens.weight": draw(vocab, hidden)}
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        group = (heads // kv_heads) * dim
        # Scores have a spread of about one; K's large biases must not make attention one-hot.
        gain = 0.15 if config["model_type"] == "qwen2" else 0.7
        q_gain = gain / sizes.repeat_interleave(group)[:, None]
        out[p + "input_layernorm.weight"] = norm(hidden)
        out[p + "self_attn.q_proj.weight"] = matrix(heads * dim, hidden) * q_gain
        out[p + "self_attn.k_proj.weight"] = matrix(kv_heads * dim, hidden) * rows_of_heads
        out[p + "self_attn.v_proj.weight"] = matrix(kv_heads * dim, hidden, 1.0 + i) * rows_of_heads
        out[p + "self_attn.o_proj.weight"] = matrix(hidden, heads * dim)
        if config["model_type"] == "qwen2":
            big = 12.0 * draw(kv_heads * dim) * (draw(kv_heads * dim) > 1.0)
            out[p + "self_attn.q_proj.bias"] = 0.1 * draw(heads * dim)
            out[p + "self_attn.k_proj.bias"] = big + 0.5 * draw(kv_heads * dim)
            out[p + "self_attn.v_proj.bias"] = 0.3 * draw(kv_heads * dim)
        if config["model_type"] == "qwen3":
            out[p + "self_attn.q_norm.weight"] = norm(dim, 0.3)
            out[p + "self_attn.k_norm.weight"] = norm(dim, 0.3)
        out[p + "post_attention_layernorm.weight"] = norm(hidden)
        out[p + "mlp.gate_proj.weight"] = matrix(inner, hidden, 1.5)
        out[p + "mlp.up_proj.weight"] = matrix(inner, hidden)
        out[p + "mlp.down_proj.weight"] = matrix(hidden, inner)
    out["model.norm.weight"] = norm(hidden)
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = matrix(vocab, hidden, 4.0)
    return {k: v.to(dtype_of(config)).contiguous() for k, v in out.items()}


def save_weights(folder: Path, weights: dict, shards: int) -> None:
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(weights)
    where = {}
    for s in range(shards):
        part = names[s * len(names) // shards:(s + 1) * len(names) // shards]
        file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        save_file({n: weights[n] for n in part}, folder / file, metadata={"format": "pt"})
        where.update({n: file for n in part})
    total = sum(w.numel() * w.element_size() for w in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def make_all() -> None:
    for name, config in CONFIGS.items():
        folder = MODELS / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_weights(folder, make_weights(name, config), SHARDED.get(name, 1))
