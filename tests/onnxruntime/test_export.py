#!/usr/bin/env python3
"""Exported models in stock ONNX Runtime, against kv8's own engine and against transformers.

    test_export.py KV8_PROGRAM

Every tiny model of tests/data/models is exported with `kv8 export --portable`, with KV in FP16 and
in FP8 (one scale a layer, one a head, Q quantized or not), and run: a prefill, then one call a
token, over caches whose unused slots hold junk. SmolLM2-135M-Instruct too, where it is
($KV8_SMOLLM2_DIR, or where the demo puts it). The plain export, whose caches are float8, runs in
ONNX's reference evaluator. Exit status 77 (skipped) where onnxruntime or onnx is not installed.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import ml_dtypes
    import numpy as np
    import onnx
    import onnxruntime
    from onnx.reference import ReferenceEvaluator
except ImportError as missing:
    print(f"skipped: {missing}; run with the Python of tools/requirements.txt (-DKV8_PYTHON=…)")
    sys.exit(77)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tools"))
import check_onnx  # noqa: E402
from check_onnx import read_safetensors  # noqa: E402
from checkpoints import GOLDEN, INFO, KINDS, make_checkpoint  # noqa: E402

KV8 = ""
FP16_BOUND = 2e-3
ROOT = Path(__file__).resolve().parent.parent.parent
SMOLLM2 = Path(os.environ.get("KV8_SMOLLM2_DIR", ROOT / "build/models/SmolLM2-135M-Instruct"))


def kv8(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([KV8, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def row_errors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)).ravel()


def mean_kl(a: np.ndarray, b: np.ndarray) -> float:
    """KL(a || b) of the distributions that two sets of logits stand for, mean over rows."""
    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        x -= x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))
    p, q = log_softmax(a), log_softmax(b)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def engine_logits(checkpoint: Path, ids: np.ndarray, fp8: bool, prefill: int, folder: Path) -> np.ndarray:
    """Logits of all rows; `prefill` ids at once (0: all), the rest one by one."""
    ids_file, out = folder / "ids.json", folder / "logits.safetensors"
    ids_file.write_text(json.dumps(ids.tolist()))
    result = kv8("debug", "logits", "--checkpoint", checkpoint, "--ids-file", ids_file, "--out", out,
                 "--kv", "fp8" if fp8 else "fp16", "--prefill", prefill, "--threads", 2)
    assert result.returncode == 0, result.stderr
    return read_safetensors(out)["logits"]


def without_rounding(model_file: Path) -> Path:
    """The same model with Q, K and V as they are, not rounded to FP16 and back."""
    model = onnx.load(str(model_file), load_external_data=False)
    producers = {output: node for node in model.graph.node for output in node.output}

    def casts_to(node: onnx.NodeProto, dtype: int) -> bool:
        return node.op_type == "Cast" and node.attribute[0].i == dtype

    unrounded = {}
    for node in model.graph.node:
        source = producers.get(node.input[0]) if node.input else None
        if source and casts_to(node, onnx.TensorProto.FLOAT) and casts_to(source, onnx.TensorProto.FLOAT16):
            unrounded[node.output[0]] = source.input[0]
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = unrounded.get(name, name)
    assert len(unrounded) >= 3, "no rounding found"
    out = model_file.with_name("unrounded.onnx")
    onnx.save(model, str(out))
    return out


class Model:
    """A checkpoint with its exports in a folder of its own."""

    def __init__(self, name: str, kind: str, root: Path):
        self.name, self.kind, self.root = name, kind, root / f"{name}-{kind}"
        self.checkpoint = make_checkpoint(name, kind, self.root / "checkpoint")
        self.golden = read_safetensors(GOLDEN / f"logits_{name}.safetensors")
        self.exports = 0

    def prompt(self, n: int) -> np.ndarray:
        return self.golden[f"input_ids_{n}"].astype(np.int64)

    def export(self, *flags) -> Path:
        self.exports += 1
        out = self.root / f"export{self.exports}"
        result = kv8("export", self.checkpoint, out, *flags)
        assert result.returncode == 0, result.stderr
        return out / "llm"

    def facts(self, folder: Path) -> dict:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return check_onnx.check_interface(check_onnx.check_file(folder / "model.onnx"), config)

    def engine_logits(self, ids: np.ndarray, prefill: int) -> np.ndarray:
        return engine_logits(self.checkpoint, ids, self.kind != "fp16", prefill, self.root)

    def transformers_logits(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and their logits for prompt 2, with the same rounding of Q, K and V simulated."""
        rows = self.golden["rows_2"]
        if self.kind == "fp16":
            return rows, self.golden.get("kv_rounded_2", self.golden["logits_2"])
        return rows, read_safetensors(GOLDEN / f"fp8_kv_{self.name}.safetensors")[self.kind]

    def worst_error(self) -> float:
        """Bound on the worst row: under FP8, values that round the other way through another order
        of sums (measured in FP64 for models.json)."""
        noise = 0.0 if self.kind == "fp16" else max(INFO[self.name]["fp8_noise"][self.kind])
        return max(FP16_BOUND, 3 * noise)


class Session:
    """Calls of an exported model in order, with its caches."""

    def __init__(self, model_file: Path, capacity: int, batch: int = 1, fill: float = 9.0):
        onnxruntime.set_default_logger_severity(3)
        self.session = onnxruntime.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.cache = {value.name: np.full((batch, value.shape[1], capacity, value.shape[3]), fill, np.float32)
                      for value in self.session.get_inputs() if value.name.startswith("past_key_values.")}

    def run(self, ids: np.ndarray, done: list[int]) -> np.ndarray:
        """ids [batch, new tokens]; done: tokens of each sequence that are in the cache."""
        past, new = np.array(done, np.int64), ids.shape[1]
        result = self.session.run(None, {
            "input_ids": ids, "position_ids": past[:, None] + np.arange(new), "cache_write_index": past,
            "nonpad_kv_seqlen": past + new, **self.cache})
        result = dict(zip(self.outputs, result))
        self.cache = {name: result[name.replace("past_key_values", "present")] for name in self.cache}
        return result["logits"]


class ExportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="kv8-export-")
        cls.root = Path(cls.folder.name)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def setUp(self):
        self.dir = self.root / self.id().rsplit(".", 1)[-1]

    def expect_close(self, errors: np.ndarray, model: Model, what: str):
        self.assertTrue(np.isfinite(errors).all(), what)
        self.assertLessEqual(np.quantile(errors, 0.75), FP16_BOUND, what)
        self.assertLessEqual(errors.max(), model.worst_error(), what)

    def test_portable_export_agrees_with_the_engine_and_with_transformers(self):
        for name in INFO:
            for kind in KINDS:
                with self.subTest(model=name, kind=kind):
                    self.compare(Model(name, kind, self.dir))

    def compare(self, model: Model):
        folder = model.export("--portable")
        facts = model.facts(folder)
        ids = model.prompt(2)
        engine = model.engine_logits(ids, prefill=len(ids) - 8)
        dump = {"input_ids": ids[None], "logits": engine[None]}
        errors = check_onnx.run_model(folder / "model.onnx", facts, dump, fill=9.0)
        self.assertEqual(errors.size, len(ids))
        self.expect_close(errors, model, "engine")

        rows, expected = model.transformers_logits()
        logits = Session(folder / "model.onnx", len(ids) + 3).run(ids[None], [0])[0]
        self.expect_close(row_errors(logits[rows], expected), model, "transformers")

    def test_sequences_of_different_lengths_decode_in_one_call(self):
        for kind in ("fp16", "head"):
            with self.subTest(kind=kind):
                model = Model("qwen3", kind, self.dir)
                file = model.export("--portable") / "model.onnx"
                prompts, capacity, steps = [model.prompt(1)[:30], model.prompt(2)[:11]], 40, 5
                tails = np.stack([model.prompt(2)[100:100 + steps], model.prompt(2)[120:120 + steps]])
                alone = [Session(file, capacity, fill=fill) for fill in (9.0, -7.0)]
                for session, prompt in zip(alone, prompts):
                    session.run(prompt[None], [0])
                both = Session(file, capacity, batch=2)
                both.cache = {n: np.concatenate([s.cache[n] for s in alone]) for n in both.cache}
                for step in range(steps):
                    done = [len(prompt) + step for prompt in prompts]
                    together = both.run(tails[:, step:step + 1], done)
                    for i, prompt in enumerate(prompts):
                        expected = model.engine_logits(
                            np.concatenate([prompt, tails[i, :step + 1]]), prefill=len(prompt))[-1]
                        self.expect_close(row_errors(together[i], expected[None]), model, f"{i} step {step}")

    def test_last_token_only_gives_the_last_row(self):
        model = Model("qwen2", "tensor", self.dir)
        ids = model.prompt(1)
        every = Session(model.export("--portable") / "model.onnx", 40).run(ids[None], [0])
        last = Session(model.export("--portable", "--last_token_only") / "model.onnx", 40).run(ids[None], [0])
        self.assertEqual(last.shape, (1, 1, every.shape[2]))
        self.assertLess(row_errors(last[0], every[0, -1:]).max(), 1e-5)

    def test_float8_caches_in_the_reference_evaluator(self):
        for name, kind in (("qwen3", "head"), ("mistral", "tensor"), ("mistral", "fp16"), ("llama_yarn", "tensor_q16")):
            with self.subTest(model=name, kind=kind):
                model = Model(name, kind, self.dir)
                folder = model.export()
                facts = model.facts(folder)
                self.assertEqual(facts["kv_types"], ["FLOAT16" if kind == "fp16" else "FLOAT8E4M3FN"])
                ids = model.prompt(1)
                self.expect_close(
                    row_errors(self.evaluate(folder, facts, ids), model.engine_logits(ids, prefill=30)), model, "engine")

    def evaluate(self, folder: Path, facts: dict, ids: np.ndarray) -> np.ndarray:
        session = ReferenceEvaluator(str(folder / "model.onnx"))
        embeds = read_safetensors(folder / "embedding.safetensors")["embedding"][ids][None]
        dtype = np.float16 if facts["kv_types"] == ["FLOAT16"] else ml_dtypes.float8_e4m3fn
        shape = (1, facts["kv_heads"], len(ids) + 3, facts["head_dim"])
        cache = {n: np.full(shape, 5, dtype) for n in session.input_names if n.startswith("past_key_values.")}
        done, logits = 0, []
        for new in [len(ids) - 7, 1, 1, 5]:
            feed = {"inputs_embeds": embeds[:, done:done + new], "position_ids": np.arange(done, done + new)[None],
                    "cache_write_index": np.array([done]), "nonpad_kv_seqlen": np.array([done + new]), **cache}
            result = dict(zip(session.output_names, session.run(None, feed)))
            cache = {n: result[n.replace("past_key_values", "present")] for n in cache}
            logits.append(result["logits"][0])
            done += new
        return np.concatenate(logits)

    @unittest.skipUnless((SMOLLM2 / "model.safetensors").exists(), f"no SmolLM2 at {SMOLLM2}")
    def test_smollm2_differs_from_transformers_by_rounding_q_k_and_v_alone(self):
        """Rounding them to FP16 moves a prompt's logits by up to 2e-3; without it the exported
        model is plain FP32 transformers."""
        result = kv8("export", SMOLLM2, self.dir, "--portable")
        self.assertEqual(result.returncode, 0, result.stderr)
        cases = json.loads((GOLDEN / "smollm2_greedy.json").read_text(encoding="utf-8"))["cases"]
        golden = read_safetensors(GOLDEN / "smollm2_logits.safetensors")
        file = without_rounding(self.dir / "llm" / "model.onnx")
        for n in range(0, len(cases), 4):  # each session loads the weights
            ids = np.array(cases[n]["prompt_ids"], np.int64)
            logits = Session(file, len(ids)).run(ids[None], [0])[0, -1]
            difference = logits[golden["top_ids"][n]].astype(np.float64) - golden["top_logits"][n]
            self.assertLess(np.linalg.norm(difference) / np.linalg.norm(golden["top_logits"][n]), 1e-4, n)

    @unittest.skipUnless((SMOLLM2 / "model.safetensors").exists(), f"no SmolLM2 at {SMOLLM2}")
    def test_smollm2_prefill_and_decode(self):
        """30 layers turn one value that rounds the other way into visible differences, so two
        correct programs agree only as well as the engine agrees with itself when it adds in
        another order: all tokens at once, or one by one."""
        self.dir.mkdir()
        checkpoint = self.dir / "checkpoint"
        result = kv8("quantize", "llm", "--model_dir", SMOLLM2, "--output_dir", checkpoint,
                     "--kv_cache_quantization", "fp8", "--num_samples", 2)
        self.assertEqual(result.returncode, 0, result.stderr)
        cases = json.loads((GOLDEN / "smollm2_greedy.json").read_text(encoding="utf-8"))["cases"][:2]
        for source in (SMOLLM2, checkpoint):
            fp8 = source == checkpoint
            export = self.dir / f"export-{fp8}"
            result = kv8("export", source, export, "--portable")
            self.assertEqual(result.returncode, 0, result.stderr)
            for n, case in enumerate(cases):
                with self.subTest(fp8=fp8, prompt=n):
                    ids = np.array(case["prompt_ids"] + case["ids"][:12], np.int64)
                    prompt = len(case["prompt_ids"])
                    engine, one_by_one = (engine_logits(source, ids, fp8, p, self.dir) for p in (prompt, 1))
                    session = Session(export / "llm" / "model.onnx", len(ids) + 3)
                    rows = [session.run(ids[None, :prompt], [0])[0]]
                    rows += [session.run(ids[None, i:i + 1], [i])[0] for i in range(prompt, len(ids))]
                    logits = np.concatenate(rows)
                    if fp8:
                        self.assertLess(mean_kl(engine, logits), 2 * mean_kl(engine, one_by_one))
                    else:
                        errors, noise = row_errors(logits, engine), row_errors(one_by_one, engine)
                        self.assertLess(np.quantile(errors, 0.75), FP16_BOUND)
                        self.assertLess(errors.max(), max(FP16_BOUND, 3 * noise.max()))

    def test_exporting_twice_gives_the_same_bytes(self):
        model = Model("llama3", "tensor", self.dir)
        first, second = model.export(), model.export()
        for file in first.iterdir():
            self.assertEqual(file.read_bytes(), (second / file.name).read_bytes(), file.name)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    KV8 = sys.argv.pop(1)
    unittest.main()
