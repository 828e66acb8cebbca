#!/usr/bin/env python3
"""Times PyTorch's scaled_dot_product_attention (FP16, causal, GQA) over the shapes of `kv8 bench fmha`.

    tools/time_torch_sdpa.py [--backend flash|cudnn|efficient] [--csv FILE]

The method is the benchmark's: 256 MiB written before each launch so that L2 is cold, 50 untimed and 100 timed launches,
one pair of events around each, medians; 500 ms of launches first from 4,096 tokens on. Q, K and V are contiguous,
[batch][tokens][heads][head_dim].
"""
import argparse
import csv
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

MODELS = [("Qwen3-0.6B", 16, 8, 128), ("Qwen3-8B", 32, 8, 128), ("Qwen2.5-7B", 28, 4, 128),
          ("Llama-3.2-3B", 24, 8, 128), ("Llama-3.2-1B", 32, 8, 64), ("Qwen2.5-0.5B", 14, 2, 64)]
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION}


def attention(heads, kv_heads, head_dim, batch, tokens):
    """A call of SDPA on random normals of this shape."""
    def tensor(h):
        return torch.randn(batch, tokens, h, head_dim, device="cuda", dtype=torch.float16).transpose(1, 2)
    q, k, v = tensor(heads), tensor(kv_heads), tensor(kv_heads)
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def median_us(launch, flush, warmup, repeats):
    times = []
    for i in range(warmup + repeats):
        flush.fill_(i & 127)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        launch()
        end.record()
        end.synchronize()
        if i >= warmup:
            times.append(begin.elapsed_time(end) * 1000.0)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=sorted(BACKENDS), default="flash")
    parser.add_argument("--csv", help="write model, bs, seq, torch_us to this file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device was found")
    flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    rows = []
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments.backend}")
    with sdpa_kernel(BACKENDS[arguments.backend]), torch.inference_mode():
        for name, heads, kv_heads, head_dim in MODELS:
            for batch in (1, 4, 8):
                for tokens in (512, 1024, 4096):
                    launch = attention(heads, kv_heads, head_dim, batch, tokens)
                    end = time.monotonic() + (0.5 if tokens >= 4096 else 0.0)
                    while time.monotonic() < end:
                        launch()
                        torch.cuda.synchronize()
                    us = median_us(launch, flush, 50, 100)
                    rows.append((name, batch, tokens, round(us, 2)))
                    print(f"{name:<14} ({heads},{kv_heads},{head_dim}) batch {batch} length {tokens:>5} {us:>10.2f} us",
                          flush=True)
    if arguments.csv:
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("model", "bs", "seq", "torch_us"))
            writer.writerows(rows)


if __name__ == "__main__":
    main()
