"""Checkpoints for the export tests: the tiny models of tests/data, with FP8 KV scales or without."""

import json
import shutil
import struct
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"
GOLDEN = DATA / "golden"
INFO = json.loads((GOLDEN / "models.json").read_text(encoding="utf-8"))["models"]
KINDS = ("fp16", "tensor", "tensor_q16", "head")  # KV in FP16; FP8 as models.json calls its variants
TEMPLATE = {"model_path": "", "roles": {r: {"prefix": f"<{r}>", "suffix": "\n"}
                                        for r in ("system", "user", "assistant")},
            "content_types": {}, "generation_prompt": "<assistant>", "default_system_prompt": ""}


def read_raw(path: Path) -> dict[str, tuple[str, list, bytes]]:
    """dtype, shape and bytes by name: NumPy has no BF16, and the test needs no values."""
    data = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {name: (e["dtype"], e["shape"], data[start + e["data_offsets"][0]:start + e["data_offsets"][1]])
            for name, e in header.items()}


def write_raw(path: Path, tensors: dict[str, tuple[str, list, bytes]]) -> None:
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))


def f32(values: list[float], shape: list[int]) -> tuple[str, list, bytes]:
    return "F32", shape, struct.pack(f"<{len(values)}f", *values)


def scale_tensors(name: str, kind: str) -> dict[str, tuple[str, list, bytes]]:
    scales, tensors = INFO[name]["scales"], {}
    suffix = "_per_head" if kind == "head" else ""
    for layer in range(INFO[name]["layers"]):
        attention = f"model.layers.{layer}.self_attn."
        for letter in "kv":
            values = scales[f"{letter}_scale{suffix}"][layer]
            shape = [len(values)] if len(values) > 1 else []
            tensors[f"{attention}{letter}_proj.{letter}_scale"] = f32(values, shape)
        if kind != "tensor_q16":
            tensors[f"{attention}q_proj.q_scale"] = f32(scales["q_scale"][layer], [1])
    return tensors


def make_checkpoint(name: str, kind: str, folder: Path) -> Path:
    """A whole checkpoint in folder: weights, scales, a tokenizer and a chat template."""
    folder.mkdir(parents=True)
    source = DATA / "models" / name
    shutil.copy(source / "config.json", folder)
    for file in (DATA / "tokenizers" / "llama2").iterdir():
        shutil.copy(file, folder)
    (folder / "processed_chat_template.json").write_text(json.dumps(TEMPLATE), encoding="utf-8")
    tensors = {}
    for file in sorted(source.glob("*.safetensors")):
        tensors |= read_raw(file)
    if kind != "fp16":
        tensors |= scale_tensors(name, kind)
        (folder / "hf_quant_config.json").write_text(json.dumps(
            {"producer": {"name": "test", "version": "1"},
             "quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}), encoding="utf-8")
    write_raw(folder / "model.safetensors", tensors)
    return folder
