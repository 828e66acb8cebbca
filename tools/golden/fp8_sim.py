"""kv8's KV cache numbers, simulated inside transformers' attention.

A stored value is rounded once to the model's FP16/BF16 after RoPE; under FP8 it is then
e4m3(x / scale), the division in FP32, to nearest even, saturating at 448, and used as
code * scale. Q follows the same rule where q_dtype is fp8. Probabilities stay FP32.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

E4M3_MAX = 448.0


@dataclass
class KvSim:
    """What the patched attention does. Scales: layer -> [1] or [kv heads] (Q: [1])."""
    store_dtype: torch.dtype | None = None  # None: plain FP32 attention
    q_scale: list | None = None
    k_scale: list | None = None
    v_scale: list | None = None
    observe: bool = False
    amax: dict = field(default_factory=dict)  # ("q" | "k" | "v", layer) -> amax per head


ACTIVE = KvSim()


def e4m3(x: torch.Tensor) -> torch.Tensor:
    return x.float().clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(x.dtype)


def quantized(x: torch.Tensor, scales: list | None, layer: int) -> torch.Tensor:
    """x: [batch, heads, tokens, head_dim]."""
    if scales is None:
        return x
    scale = torch.as_tensor(scales[layer], dtype=torch.float32).reshape(1, -1, 1, 1)
    return (e4m3(x.float() / scale) * scale).to(x.dtype)


def observe(sim: KvSim, name: str, layer: int, x: torch.Tensor) -> None:
    found = x.detach().abs().amax(dim=(0, 2, 3)).float()
    key = (name, layer)
    sim.amax[key] = torch.maximum(sim.amax[key], found) if key in sim.amax else found


def attention(module, query, key, value, attention_mask, scaling=None, **_):
    sim, layer = ACTIVE, module.layer_idx
    if sim.store_dtype is not None:
        work = query.dtype
        query, key, value = (t.to(sim.store_dtype).to(work) for t in (query, key, value))
    if sim.observe:
        for name, tensor in (("q", query), ("k", key), ("v", value)):
            observe(sim, name, layer, tensor)
    query = quantized(query, sim.q_scale, layer)
    key, value = quantized(key, sim.k_scale, layer), quantized(value, sim.v_scale, layer)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    rows, cols = scores.shape[-2:]
    causal = torch.ones(rows, cols, dtype=torch.bool).tril(cols - rows)
    weights = scores.masked_fill(~causal, float("-inf")).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("kv8_sim", attention)
AttentionMaskInterface.register("kv8_sim", lambda *args, **kwargs: None)


@contextmanager
def kv_sim(sim: KvSim):
    global ACTIVE
    before, ACTIVE = ACTIVE, sim
    try:
        yield sim
    finally:
        ACTIVE = before


def scales_of(sim: KvSim, name: str, layers: int, per_head: bool) -> list:
    """amax / 448 in FP32, one a layer or one a head."""
    out = []
    for layer in range(layers):
        amax = sim.amax[name, layer]
        amax = amax if per_head else amax.max().reshape(1)
        out.append([float(a) for a in (amax / torch.tensor(E4M3_MAX, dtype=torch.float32))])
    return out
