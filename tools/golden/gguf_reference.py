#!/usr/bin/env python3
"""References for kv8's GGUF reader, by the Python package gguf, sentencepiece and transformers.

    gguf_reference.py

Writes tests/data/golden/gguf_blocks.safetensors (random blocks of every tensor type, and their
values in FP32) and tests/data/golden/sentencepiece.json (a small SentencePiece BPE vocabulary with
scores as GGUF keeps them, the merges that transformers derives from it, and ids of some texts by
sentencepiece itself).
"""

import tempfile
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
from safetensors.numpy import save_file
from transformers.convert_slow_tokenizer import generate_merges

from common import GOLDEN, ROOT, made_by, write_json

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
# Byte offsets of the FP16 numbers in a block: random bytes there would give infinities and NaN.
FP16_AT = {"F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
           "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
TEXTS = ["Hello world", " two  spaces", "", "naïve café", "日本語 text", "🙂 ok", "a\nb\tc",
         "1234567890", "def f(x):\n    return x", "  lead", "the the the"]


def make_blocks(name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    kind = gguf.GGMLQuantizationType[name]
    values, size = gguf.GGML_QUANT_SIZES[kind]
    count = max(6, 64 // values)
    if name == "F32":
        floats = rng.standard_normal(count).astype(np.float32)
        blocks = floats.view(np.uint8).reshape(count, size)
    elif name == "BF16":
        floats = rng.standard_normal(count).astype(np.float32)
        blocks = (floats.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        blocks = blocks.reshape(count, size)
    else:
        blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
        for at in FP16_AT[name]:
            scales = rng.standard_normal(count).astype(np.float16)
            scales[0] = np.float16(6e-8)  # the smallest subnormal
            scales[1] = np.float16(-65504 / 64)
            blocks[:, at:at + 2] = scales.view(np.uint8).reshape(count, 2)
    decoded = gguf.quants.dequantize(blocks.reshape(-1), kind)
    return np.ascontiguousarray(blocks.reshape(-1)), decoded.astype(np.float32).reshape(-1)


def write_blocks() -> None:
    rng = np.random.default_rng(20240)
    tensors = {}
    for name in TYPES:
        tensors[f"{name}.blocks"], tensors[f"{name}.values"] = make_blocks(name, rng)
    save_file(tensors, GOLDEN / "gguf_blocks.safetensors", metadata={
        "made_by": "tools/golden/gguf_reference.py, gguf " + made_by(__file__, "gguf")["versions"]["gguf"]})


def write_sentencepiece() -> None:
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "model")
        sentencepiece.SentencePieceTrainer.train(
            input=str(ROOT / "data" / "calibration" / "builtin.txt"), model_prefix=prefix,
            model_type="bpe", vocab_size=900, byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, character_coverage=0.98, num_threads=1,
            minloglevel=2)
        model = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
    size = model.get_piece_size()
    tokens = [model.id_to_piece(i) for i in range(size)]
    scores = [model.get_score(i) for i in range(size)]
    types = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
             for i in range(size)]
    vocab = {token: i for i, token in enumerate(tokens)}
    special = [t for t, kind in zip(tokens, types) if kind != 1]
    merges = generate_merges(vocab, dict(zip(tokens, scores)), special)
    write_json(GOLDEN / "sentencepiece.json", {
        "made_by": made_by(__file__, "sentencepiece", "transformers"),
        "tokens": tokens, "scores": scores, "types": types,
        "merges": [f"{left} {right}" for left, right in merges],
        "texts": [{"text": text, "ids": model.encode(text)} for text in TEXTS],
    })


if __name__ == "__main__":
    write_blocks()
    write_sentencepiece()
