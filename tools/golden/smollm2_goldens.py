#!/usr/bin/env python3
"""SmolLM2-135M-Instruct goldens: logits, greedy text, and the loss that FP8 KV costs.

    smollm2_goldens.py SMOLLM2_FOLDER [--part greedy|fp8]

SMOLLM2_FOLDER is the imported FP16 folder. Writes tests/data/golden/smollm2_greedy.json,
smollm2_logits.safetensors, fp8_kv_smollm2.json and fp8_kv_smollm2.safetensors.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedTokenizerFast

from common import DATA, GOLDEN, ROOT, made_by, sha256, write_json
from fp8_sim import KvSim, kv_sim, scales_of

STEPS, EOS, WINDOW, SAMPLE = 64, 2, 1024, 512
TOP = 64
POSITIONS = (0, 15, 63, 127, 255, 511, 767, 1023)


def load(folder: Path, attention: str):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention).eval()


def greedy(model, ids: list[int]) -> tuple[torch.Tensor, dict]:
    """Last-token logits of the prompt, and up to 64 greedy steps."""
    cache, step_ids, second, gaps = DynamicCache(config=model.config), [], [], []
    logits = first = None
    todo = torch.tensor([ids])
    for _ in range(STEPS):
        with torch.no_grad():
            logits = model(todo, past_key_values=cache, use_cache=True).logits[0, -1]
        first = logits if first is None else first
        best = logits.topk(2)
        step_ids.append(int(best.indices[0]))
        second.append(int(best.indices[1]))
        gaps.append(round(float(best.values[0] - best.values[1]), 4))
        if step_ids[-1] == EOS:
            break
        todo = torch.tensor([[step_ids[-1]]])
    return first, {"ids": step_ids, "second": second, "gap": gaps}


def make_greedy(folder: Path, tokenizer: Tokenizer) -> None:
    chat = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    chat.chat_template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    model = load(folder, "sdpa")
    prompts = json.loads((DATA / "prompts20.json").read_text())["prompts"]
    cases, tops, values, norms, full = [], [], [], [], []
    for n, prompt in enumerate(prompts):
        text = chat.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                        add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        logits, steps = greedy(model, ids)
        best = logits.topk(TOP)
        tops.append(best.indices.int())
        values.append(best.values)
        norms.append(logits.norm())
        if n < 3:
            full.append(logits)
        ended = steps["ids"][-1] == EOS
        cases.append({"prompt": prompt, "prompt_ids": ids, **steps,
                      "finish_reason": "end-of-sequence" if ended else "max-length",
                      "text": tokenizer.decode(steps["ids"], skip_special_tokens=True)})
        print(n, min(steps["gap"]), repr(cases[-1]["text"][:60]), flush=True)
    save_file({"top_ids": torch.stack(tops), "top_logits": torch.stack(values),
               "norms": torch.stack(norms), "full_logits_0_to_2": torch.stack(full).half()},
              GOLDEN / "smollm2_logits.safetensors", metadata())
    write_json(GOLDEN / "smollm2_greedy.json", {
        "made_by": made_by(__file__, "torch", "transformers", "tokenizers"),
        "about": "Greedy continuation in plain FP32 (weights FP16 as imported), at most 64 steps, the "
                 "end token 2 included where it came. second and gap: the runner-up and the "
                 "difference of the two best logits at each step. A step whose gap is under 0.05 "
                 "may be chosen differently; what follows such a difference is not compared. "
                 "smollm2_logits.safetensors: after each of the 20 prompts the last token's 64 best "
                 "ids (I32) and logits (F32), the norm of all 49152 logits (F32), and all of them "
                 "for prompts 0 to 2 (F16).",
        "max_new_tokens": STEPS, "eos_token_id": EOS, "small_gap": 0.05, "cases": cases})


def metadata() -> dict:
    about = made_by(__file__, "torch", "transformers")
    return {"script": about["script"], **about["versions"]}


def calibrate(model, ids: torch.Tensor) -> KvSim:
    sim = KvSim(store_dtype=torch.float16, observe=True)
    with torch.no_grad(), kv_sim(sim):
        for start in range(0, len(ids) - SAMPLE + 1, SAMPLE):
            model.model(ids[None, start:start + SAMPLE], use_cache=False)
    return sim


def window_logits(model, ids: torch.Tensor, sim: KvSim) -> list[torch.Tensor]:
    with torch.no_grad(), kv_sim(sim):
        return [model(w[None], use_cache=False).logits[0] for w in ids.split(WINDOW) if len(w) > 1]


def nll_sum(logits: torch.Tensor, window: torch.Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits[:-1].double(), window[1:], reduction="sum"))


def compare(base: list, other: list, windows: list) -> dict:
    total = sum(len(w) - 1 for w in windows)
    nll = [nll_sum(l, w) for l, w in zip(other, windows)]
    kl, equal = [], 0
    for a, b in zip(base, other):
        p, q = a[:-1].double().log_softmax(-1), b[:-1].double().log_softmax(-1)
        kl.append((p.exp() * (p - q)).sum(-1))
        equal += int((p.argmax(-1) == q.argmax(-1)).sum())
    kl = torch.cat(kl)
    return {"perplexity": float(np.exp(sum(nll) / total)), "window_nll": [round(x, 4) for x in nll],
            "mean_kl": float(kl.mean()), "max_kl": float(kl.max()), "top1_agreement": equal / total}


def make_fp8(folder: Path, tokenizer: Tokenizer) -> None:
    model = load(folder, "kv8_sim")
    layers = model.config.num_hidden_layers
    read = lambda path: torch.tensor(tokenizer.encode(
        (ROOT / path).read_text(encoding="utf-8"), add_special_tokens=False).ids)
    calibration, heldout = read("data/calibration/builtin.txt"), read("data/eval/heldout.txt")
    observed = calibrate(model, calibration)
    q, k, v = (scales_of(observed, name, layers, False) for name in "qkv")
    kh, vh = (scales_of(observed, name, layers, True) for name in "kv")
    fp16 = torch.float16
    variants = {"fp32": KvSim(), "fp16": KvSim(fp16), "fp8": KvSim(fp16, q, k, v),
                "fp8_q16": KvSim(fp16, None, k, v), "fp8_per_head": KvSim(fp16, q, kh, vh),
                "keys_only": KvSim(fp16, None, k, None), "values_only": KvSim(fp16, None, None, v)}
    windows = [w for w in heldout.split(WINDOW) if len(w) > 1]
    base = window_logits(model, heldout, variants["fp16"])
    results, rows = {}, {"positions": torch.tensor(POSITIONS, dtype=torch.int32)}
    for name, sim in variants.items():
        found = base if name == "fp16" else window_logits(model, heldout, sim)
        results[name] = compare(base, found, windows)
        print(name, {k: x for k, x in results[name].items() if k != "window_nll"}, flush=True)
        if name in ("fp16", "fp8", "fp8_q16"):
            picked = found[0][list(POSITIONS)]
            best = picked.topk(TOP)
            rows |= {f"{name}_top_ids": best.indices.int(), f"{name}_top_logits": best.values,
                     f"{name}_norms": picked.norm(dim=-1)}
    save_file(rows, GOLDEN / "fp8_kv_smollm2.safetensors", metadata())
    as_i32 = lambda ids: sha256(ids.numpy().astype("<i4").tobytes())
    write_json(GOLDEN / "fp8_kv_smollm2.json", {
        "made_by": made_by(__file__, "torch", "transformers", "tokenizers"),
        "about": {
            "calibration": "data/calibration/builtin.txt as one run of ids without special tokens, cut "
                           "into samples of 512, the rest dropped; amax after rounding to FP16; "
                           "scale = amax / 448, one a layer (and one a KV head under per_head).",
            "evaluation": "data/eval/heldout.txt as one run of ids without special tokens, cut into "
                          "windows of 1024 (the last one shorter); every token of a window but its "
                          "first is predicted. perplexity = exp(sum of window_nll / predicted). KL is "
                          "KL(fp16 || variant) per predicted position, natural logarithm.",
            "variants": "fp32: nothing rounded; fp16: Q, K, V rounded to FP16; fp8: Q, K, V in E4M3; "
                        "fp8_q16: K and V only; fp8_per_head; keys_only and values_only: Q not "
                        "quantized.",
            "rows": "fp8_kv_smollm2.safetensors: for window 0 at the given positions the 64 best ids "
                    "(I32), their logits (F32) and the norm of all logits, of fp16, fp8 and fp8_q16."},
        "calibration_ids": {"count": len(calibration), "samples": len(calibration) // SAMPLE,
                            "sha256_int32": as_i32(calibration)},
        "heldout_ids": {"count": len(heldout), "predicted": sum(len(w) - 1 for w in windows),
                        "sha256_int32": as_i32(heldout)},
        "text_sha256": {p: sha256((ROOT / p).read_bytes())
                        for p in ("data/calibration/builtin.txt", "data/eval/heldout.txt")},
        "results": results,
        "scales": {"q_scale": [x[0] for x in q], "k_scale": [x[0] for x in k],
                   "v_scale": [x[0] for x in v], "k_scale_per_head": kh, "v_scale_per_head": vh}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("smollm2", type=Path)
    parser.add_argument("--part", choices=("greedy", "fp8"))
    args = parser.parse_args()
    torch.set_num_threads(2)
    tokenizer = Tokenizer.from_file(str(args.smollm2 / "tokenizer.json"))
    if args.part != "fp8":
        make_greedy(args.smollm2, tokenizer)
    if args.part != "greedy":
        make_fp8(args.smollm2, tokenizer)


if __name__ == "__main__":
    main()
