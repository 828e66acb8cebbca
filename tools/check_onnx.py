#!/usr/bin/env python3
"""Checks an exported folder, and runs its portable variant in stock ONNX Runtime.

    check_onnx.py FOLDER                          onnx.checker, operators, inputs and outputs
    check_onnx.py FOLDER --logits DUMP [...]      also run model.onnx against dumped logits

FOLDER holds model.onnx, its external data and config.json. DUMP is a safetensors file of the
engine's own logits:

    input_ids  I32 or I64 [B, T]       the tokens
    logits     F16 or F32 [B, T, V]    the logits after each token
    steps      I32 or I64 [n]          optional: tokens a call, in order, sum T; without it all
                                       but the last 8 tokens are one call, then one call a token

Only a --portable export runs in ONNX Runtime's CPU provider (it has no TensorScatter on float8),
so a folder without the input `input_ids` is checked but not run. Unused cache slots are filled with
--cache_fill, to show that nothing reads them. The error of a row is |a - b|_2 / |b|_2. Under FP8 KV
a value that lies on a rounding boundary may fall to the other side, so the bound is on the 75th
percentile of rows (--typical_error), with a wider one on the worst row (--max_error).
Prints one JSON object; exit status 1 if anything failed.
"""

import argparse
import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

SAFETENSORS_TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}
CACHE_TYPES = {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT16, TensorProto.FLOAT}
MIN_OPSET = 24


class Failure(Exception):
    pass


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors of the types that NumPy has."""
    data = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = (start + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], SAFETENSORS_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def shape_of(value) -> list:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def elem_type(value) -> int:
    return value.type.tensor_type.elem_type


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise Failure(message)


def check_file(path: Path) -> onnx.ModelProto:
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path), load_external_data=False)
    opsets = {o.domain: o.version for o in model.opset_import}
    expect(opsets.get("", 0) >= MIN_OPSET, f"opset is {opsets.get('')}, expected {MIN_OPSET}")
    expect(set(opsets) == {""}, f"operator domains other than ONNX's own: {sorted(opsets)}")
    foreign = {f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain not in ("", "ai.onnx")}
    expect(not foreign, f"operators that are not ONNX's own: {sorted(foreign)}")
    return model


def check_interface(model: onnx.ModelProto, config: dict) -> dict:
    graph = model.graph
    inputs, outputs = {v.name: v for v in graph.input}, {v.name: v for v in graph.output}
    layers = config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    portable = "input_ids" in inputs
    first = "input_ids" if portable else "inputs_embeds"
    caches = [f"{i}.{part}" for i in range(layers) for part in ("key", "value")]
    expected_in = {first, "position_ids", "cache_write_index", "nonpad_kv_seqlen"}
    expected_in |= {f"past_key_values.{c}" for c in caches}
    expected_out = {"logits"} | {f"present.{c}" for c in caches}
    expect(set(inputs) == expected_in, f"inputs differ: {sorted(set(inputs) ^ expected_in)}")
    expect(set(outputs) == expected_out, f"outputs differ: {sorted(set(outputs) ^ expected_out)}")
    for name in ("position_ids", "cache_write_index", "nonpad_kv_seqlen") + (("input_ids",) * portable):
        expect(elem_type(inputs[name]) == TensorProto.INT64, f"{name} is not INT64")
    ranks = {first: 2 if portable else 3, "position_ids": 2, "cache_write_index": 1, "nonpad_kv_seqlen": 1}
    for name, rank in ranks.items():
        expect(len(shape_of(inputs[name])) == rank, f"{name} has shape {shape_of(inputs[name])}")
    kv_types = set()
    for c in caches:
        past, present = inputs[f"past_key_values.{c}"], outputs[f"present.{c}"]
        expect(elem_type(past) in CACHE_TYPES, f"{past.name} has element type {elem_type(past)}")
        expect(elem_type(past) == elem_type(present), f"{past.name} and {present.name} differ in type")
        shape = shape_of(past)
        expect(len(shape) == 4 and shape[1] == config["num_key_value_heads"] and shape[3] == head_dim,
               f"{past.name} has shape {shape}")
        expect(isinstance(shape[2], str), f"{past.name}: the capacity is {shape[2]}, not symbolic")
        kv_types.add(TensorProto.DataType.Name(elem_type(past)))
    declared = config.get("kv_cache_dtype")
    expect(declared in ("fp8", "fp16"), f"config.json: kv_cache_dtype is {declared!r}")
    if not portable:
        want = {"fp8": {"FLOAT8E4M3FN"}, "fp16": {"FLOAT16"}}[declared]
        expect("kv_cache_dtype_per_layer" in config or kv_types == want,
               f"kv_cache_dtype is {declared}, the cache tensors are {sorted(kv_types)}")
    return {"portable": portable, "layers": layers, "kv_heads": config["num_key_value_heads"],
            "head_dim": head_dim, "kv_types": sorted(kv_types),
            "operators": sorted({n.op_type for n in graph.node})}


def plan(dump: dict, length: int) -> list[int]:
    if "steps" in dump:
        steps = [int(s) for s in dump["steps"]]
        expect(sum(steps) == length and min(steps) > 0, f"steps {steps} do not sum to {length}")
        return steps
    tail = min(8, length - 1)
    return [length - tail] + [1] * tail


def run_model(path: Path, facts: dict, dump: dict, fill: float) -> np.ndarray:
    """Error of every row that ONNX Runtime returned."""
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    numpy_type = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    ids, want = dump["input_ids"].astype(np.int64), dump["logits"].astype(np.float64)
    expect(ids.ndim == 2 and want.shape[:2] == ids.shape,
           f"input_ids has shape {ids.shape}, logits {want.shape}")
    batch, length = ids.shape
    capacity = length + 5
    shape = (batch, facts["kv_heads"], capacity, facts["head_dim"])
    cache = {}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values."):
            expect(value.type in numpy_type, f"{value.name} is {value.type}, which cannot be run here")
            cache[value.name] = np.full(shape, fill, numpy_type[value.type])
    names = [v.name for v in session.get_outputs()]
    errors, done = [], 0
    for count in plan(dump, length):
        end = done + count
        feed = {"input_ids": ids[:, done:end],
                "position_ids": np.tile(np.arange(done, end, dtype=np.int64), (batch, 1)),
                "cache_write_index": np.full(batch, done, np.int64),
                "nonpad_kv_seqlen": np.full(batch, end, np.int64), **cache}
        result = dict(zip(names, session.run(None, feed)))
        got = result["logits"].astype(np.float64)
        expect(got.shape[1] in (1, count), f"logits have shape {got.shape} for {count} tokens")
        target = want[:, end - got.shape[1]:end]
        expect(got.shape == target.shape, f"logits have shape {got.shape}, expected {target.shape}")
        errors.append((np.linalg.norm(got - target, axis=-1) / np.linalg.norm(target, axis=-1)).ravel())
        cache = {n: result[re.sub("^past_key_values", "present", n)] for n in cache}
        done = end
    return np.concatenate(errors)


def check(args) -> dict:
    path = args.folder / "model.onnx"
    config = json.loads((args.folder / "config.json").read_text(encoding="utf-8"))
    facts = check_interface(check_file(path), config)
    if args.logits is None:
        return facts
    expect(facts["portable"], "only a --portable export can be run; this one takes inputs_embeds")
    errors = run_model(path, facts, read_safetensors(args.logits), args.cache_fill)
    expect(bool(np.isfinite(errors).all()), "logits are not finite")
    facts |= {"rows": errors.size, "max_error": float(errors.max()),
              "typical_error": float(np.quantile(errors, 0.75))}
    expect(facts["typical_error"] <= args.typical_error and facts["max_error"] <= args.max_error,
           f"logits differ: 75th percentile {facts['typical_error']:.3e} (bound {args.typical_error}), "
           f"worst {facts['max_error']:.3e} (bound {args.max_error})")
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--logits", type=Path)
    parser.add_argument("--cache_fill", type=float, default=9.0)
    parser.add_argument("--typical_error", type=float, default=2e-3)
    parser.add_argument("--max_error", type=float, default=2e-2)
    args = parser.parse_args()
    try:
        print(json.dumps({"ok": True, **check(args)}, indent=1))
        return 0
    except (Failure, OSError, KeyError, ValueError, onnx.checker.ValidationError,
            onnx.shape_inference.InferenceError) as error:
        print(json.dumps({"ok": False, "folder": str(args.folder),
                          "error": f"{type(error).__name__}: {error}"}, indent=1))
        return 1


if __name__ == "__main__":
    sys.exit(main())
