#!/usr/bin/env python3
"""Writes tests/data/golden/rope.json: inverse frequencies and attention factors as transformers
computes them, for the RoPE kinds that kv8 supports. Needs torch and transformers.

    python3 tools/golden/rope.py tests/data/golden/rope.json
"""
import json
import sys

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

CASES = [
    (64, 100000.0, 8192, {"rope_type": "default"}),
    (8, 10000.0, 128, {"rope_type": "default"}),
    (128, 10000.0, 4096, {"rope_type": "linear", "factor": 2.5}),
    (64, 10000.0, 2048, {"rope_type": "dynamic", "factor": 4.0}),
    (64, 500000.0, 131072, {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
    (128, 500000.0, 131072, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
    (128, 1000000.0, 131072, {"rope_type": "yarn", "factor": 4.0,
                              "original_max_position_embeddings": 32768}),
    (64, 10000.0, 163840, {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0,
                           "mscale_all_dim": 0.7, "beta_fast": 24.0, "beta_slow": 2.0,
                           "original_max_position_embeddings": 4096}),
    (96, 150000.0, 131072, {"rope_type": "yarn", "factor": 32.0, "truncate": False,
                            "original_max_position_embeddings": 4096}),
    (64, 10000.0, 16384, {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.125,
                          "original_max_position_embeddings": 2048}),
]


def table(head_dim, theta, max_position, parameters):
    config = LlamaConfig(hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim,
                         max_position_embeddings=max_position,
                         rope_parameters={"rope_theta": theta, **parameters})
    rope = LlamaRotaryEmbedding(config)
    return [float(x) for x in rope.inv_freq], float(rope.attention_scaling)


def main():
    cases = []
    for head_dim, theta, max_position, parameters in CASES:
        inv_freq, factor = table(head_dim, theta, max_position, parameters)
        cases.append({"head_dim": head_dim, "rope_theta": theta,
                      "max_position_embeddings": max_position, "rope_scaling": parameters,
                      "attention_factor": factor, "inv_freq": inv_freq})
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
