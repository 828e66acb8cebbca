#!/usr/bin/env python3
"""Tiny checkpoints and their expected logits, with plain, rounded and FP8 KV.

Writes tests/data/models/<name>/, tests/data/golden/logits_<name>.safetensors and
tests/data/golden/fp8_kv_<name>.safetensors, and models.json, which explains them and holds the
scales and the measured error floors.
"""

import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import tiny_models
from common import GOLDEN, made_by, write_json
from fp8_sim import KvSim, kv_sim, scales_of

LENGTHS = (5, 37, 200)
ABOUT = {
    "logits": "logits_<name>.safetensors: input_ids_<n> I32 [S], rows_<n> I32 [R] (positions kept), "
              "logits_<n> F32 [R, vocab], n = 0, 1, 2; transformers in FP32, weights as saved, "
              "attention in FP32, nothing rounded. kv_rounded_<n>: the same with Q, K (after RoPE) "
              "and V rounded once to the model's FP16/BF16.",
    "fp8": "fp8_kv_<name>.safetensors, prompt 2 of the same model, its rows: tensor (one K, V scale a "
           "layer, Q FP8 with q_scale), tensor_q16 (the same, Q not quantized), head (K, V scales "
           "per KV head, Q FP8). Scales are in models.json and, as FP32, in the file.",
    "error": "Relative error of a row: |a - b|_2 / |b|_2; the figures are the worst over rows. "
             "fp8_noise: [worst row, 75th percentile of rows] over 8 runs of the same simulation "
             "whose weights were disturbed by 1 part in 2^22: what another order of sums alone can "
             "change, through values that round the other way.",
    "tolerance": {"fp16_kv": 2e-3, "bf16_kv": "4 x kv_rounding_error against logits_<n>; 2e-3 against "
                  "kv_rounded_<n>", "fp8_kv": "75th percentile of rows: 2e-3; every row: the larger of 2e-3 and 3 x fp8_noise[0]"},
}


def prompts(vocab: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(vocab)
    return [torch.randint(0, vocab, (n,), generator=generator) for n in LENGTHS]


def rows_of(length: int) -> torch.Tensor:
    return torch.arange(length) if length < 100 else torch.cat(
        [torch.arange(0, length - 8, 24), torch.arange(length - 8, length)])


def run(model, ids: torch.Tensor, sim: KvSim) -> torch.Tensor:
    with torch.no_grad(), kv_sim(sim):
        return model(ids[None], use_cache=False).logits[0]


def errors(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a.double(), b.double()
    return (a - b).norm(dim=-1) / b.norm(dim=-1)


def short(x: torch.Tensor) -> float:
    return float(f"{x.item():.3e}")


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    return short(errors(a, b).max())


def noise(load, ids: torch.Tensor, sim: KvSim, full: torch.Tensor, rows: torch.Tensor) -> list:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(8):
        model = load("kv8_sim")
        with torch.no_grad():
            for weight in model.parameters():
                weight *= 1 + torch.randn(weight.shape, generator=generator) * 2.0**-22
        found.append(errors(run(model, ids, sim)[rows], full[rows]))
    found = torch.stack(found)
    return [short(found.max()), short(found.quantile(0.75))]


def make_model(name: str) -> dict:
    config = tiny_models.CONFIGS[name]
    store, layers = tiny_models.dtype_of(config), config["num_hidden_layers"]
    load = lambda attention: AutoModelForCausalLM.from_pretrained(
        tiny_models.MODELS / name, dtype=torch.float32, attn_implementation=attention).eval()
    model, stock = load("kv8_sim"), load("eager")
    meta = {k: str(v) for k, v in made_by(__file__, "torch", "transformers")["versions"].items()}
    meta["script"] = "tools/golden/model_goldens.py"

    out, info, observed = {}, {"kv_rounding_error": 0.0}, KvSim(store_dtype=store, observe=True)
    for n, ids in enumerate(prompts(config["vocab_size"])):
        rows = rows_of(len(ids))
        with torch.no_grad():
            plain = stock(ids[None], use_cache=False).logits[0]
        assert worst(run(model, ids, KvSim()), plain) < 1e-5
        rounded = run(model, ids, observed)
        info["kv_rounding_error"] = max(info["kv_rounding_error"], worst(rounded, plain))
        out |= {f"input_ids_{n}": ids.int(), f"rows_{n}": rows.int(), f"logits_{n}": plain[rows]}
        if store == torch.bfloat16:
            out[f"kv_rounded_{n}"] = rounded[rows]
    save_file({k: v.contiguous() for k, v in out.items()}, GOLDEN / f"logits_{name}.safetensors", meta)

    scales = {"q_scale": scales_of(observed, "q", layers, False),
              "k_scale": scales_of(observed, "k", layers, False),
              "v_scale": scales_of(observed, "v", layers, False),
              "k_scale_per_head": scales_of(observed, "k", layers, True),
              "v_scale_per_head": scales_of(observed, "v", layers, True)}
    q, k, v = scales["q_scale"], scales["k_scale"], scales["v_scale"]
    variants = {"tensor": KvSim(store, q, k, v), "tensor_q16": KvSim(store, None, k, v),
                "head": KvSim(store, q, scales["k_scale_per_head"], scales["v_scale_per_head"])}
    fp8 = {key: torch.tensor(value, dtype=torch.float32) for key, value in scales.items()}
    info |= {"layers": layers, "scales": scales, "fp8_error": {}, "fp8_noise": {}}
    for variant, sim in variants.items():
        full = run(model, ids, sim)
        fp8[variant] = full[rows].contiguous()
        info["fp8_error"][variant] = worst(full, plain)
        info["fp8_noise"][variant] = noise(load, ids, sim, full, rows)
    save_file(fp8, GOLDEN / f"fp8_kv_{name}.safetensors", meta)
    return info


def main() -> None:
    torch.set_num_threads(2)
    tiny_models.make_all()
    models = {}
    for name in tiny_models.CONFIGS:
        models[name] = make_model(name)
        shown = {k: v for k, v in models[name].items() if k not in ("scales", "layers")}
        print(name, shown, file=sys.stderr)
    write_json(GOLDEN / "models.json", {
        "made_by": made_by(__file__, "torch", "transformers", "safetensors"),
        "about": ABOUT, "models": models})


if __name__ == "__main__":
    main()
