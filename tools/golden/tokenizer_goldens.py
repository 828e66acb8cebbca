#!/usr/bin/env python3
"""Tokenizer goldens: the corpus, four small tokenizers, and the ids that `tokenizers` gives.

    tokenizer_goldens.py SMOLLM2_FOLDER

Writes tests/data/tokenizers/ (corpus.txt, one folder a kind, llama2_vocab.gguf) and
tests/data/golden/tokenizer_<kind>.json. How to read a golden is written in its "about" fields.
"""

import argparse
import random
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

import tokenizer_files
from common import GOLDEN, ROOT, made_by, sha256, write_json
from corpus import BROKEN, CLITICS, EMOJI, SEPARATOR, SPACES, SPECIALS, Maker, make_corpus, repaired

CORPUS = tokenizer_files.TOKENIZERS / "corpus.txt"
ABOUT = {
    "corpus": "The corpus file is cut at each byte 0x1E; broken UTF-8 in a chunk becomes U+FFFD "
              "first. chunks[i] is [number of ids, first 16 hex digits of the SHA-256 of the ids "
              "as int32 little-endian], encoded without special tokens.",
    "strings": "ids: with special tokens added; plain: without; decoded and decoded_skip: what "
               "decoding ids gives with special tokens kept and skipped.",
    "decode": "Ids that need not be a valid encoding, and what decoding gives with special tokens "
              "kept (text) and skipped (text_skip).",
}
HAND_PICKED = [
    "", " ", "  ", "   x", "x   ", "\n", "\n\n", " \n ", "\t", "\r\n", "\r", "a\u00a0b", "\u3000", "\u2028x",
    "Hello, world!", " Hello", "  Hello", "hello world", "Hello\nworld", "Hello \nworld", "Hello\n world",
    "don't", "DON'T", "don’t", "I'll've", "'s", "'S's", "''", "it's1'd2", "l'été",
    "1", "12", "123", "1234", "12345", "1234567890", "1,234.56", "3.14e-10", "0x1F", "٣٤٥", "१२३४", "²³", "Ⅷ", "½",
    "a1b2c3", "x2y", "2x", "v1.2.3-rc4", "100%", "$5", "€1.000,00",
    "naïve café", "nai\u0308ve cafe\u0301", "A\u030a", "\u212b", "\u1e9b\u0323", "e\u0323\u0301", "e\u0301\u0323",
    "\ufb01", "ﬃ", "ｆｕｌｌ", "\u0344", "\u0958", "각", "\u1100\u1161\u11a8", "が", "か\u3099", "\u2126", "\u0340",
    "你好,世界", "東京タワー", "안녕하세요", "مرحبا بالعالم", "שָׁלוֹם", "नमस्ते", "สวัสดี", "Привет", "Γειά σου", "ß", "ẞ", "İi", "ǅ",
    "😀", "👩‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇯🇵", "👍🏽👍", "❤️❤", "1️⃣", "a😀b", "\ufe0f", "\u200d", "\u200b", "\ufeffBOM",
    "\x00", "a\x00b", "\x7f", "\x1b[31m", "\ufffd", "\ufffe", "\U0010ffff", "\U000f0000", "\u0378", "\ue000",
    "<|im_start|>user\nHi<|im_end|>\n", "<|begin_of_text|>x", "x<|eot_id|>y", " <|im_end|> ", "<|im_end|><|im_end|>",
    "<s>", "</s>", "<s> x </s>", "a <s>b", "<unk>", "<unk> <unk>", "[INST] hi [/INST]", "[INST]hi[/INST] yo</s>",
    "<think>\n\n</think>\n\n", "<tool_call>", "<|endoftext|>", "<|im_start", "im_end|>", "<0x0A>", "<0xFF>",
    "▁", "▁▁", "▁x", "x▁y", " ▁ ", "Ġ", "Ċ", "ĠHello", "<repo_name>a/b<file_sep>",
    "for (int i = 0; i < n; ++i) { sum += a[i]; }", "def f(x):\n    return x\n", "\tif x:\n\t\ty()\n",
    "snake_case_name camelCaseName HTTPServer2", "a=b;c==d;e!=f", "/* … */ // --", "#!/bin/sh", "C:\\path\\file",
    "https://example.com/a?b=c&d=%20#e", "foo@bar.example", "@user #tag", "...", "…", "!!!???", "--", "—", "-\n-", "!\n\n!",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "AAAA", "ababababababab", "the the the", "lighthouse lighthouses",
    "The quick brown fox jumps over the lazy dog.", "a b  c   d    e", "a\n\n\nb", "a \n \n b", "end with space ",
    "end with newline\n", "\n start", "x\u0301\u0302\u0303", " \u0301", "\u0301", "a \u0301b", "\u0301a",
    "𝒜𝓁𝓅𝒽𝒶", "𠀀𠀁", "ﷺ", "꧁꧂", "🫠🫡", "Zürich–Łódź", "½¼¾", "™®©", "（全角）", "「」", "¿Qué?", "¡Sí!",
]


def digest(ids: list[int]) -> str:
    return sha256(np.array(ids, dtype="<i4").tobytes())


def nasty_strings() -> list[str]:
    maker = Maker(99)
    rng = maker.rng
    pools = [maker.words, SPACES, EMOJI, SPECIALS, CLITICS, list("0123456789.-_")]
    made = ["".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(2, 9))) for _ in range(60)]
    return list(dict.fromkeys(HAND_PICKED + made))


def string_case(tokenizer: Tokenizer, text: str) -> dict:
    ids = tokenizer.encode(text).ids
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    case = {"text": text, "ids": ids}
    if plain != ids:
        case["plain"] = plain
    case["decoded"] = tokenizer.decode(ids, skip_special_tokens=False)
    case["decoded_skip"] = tokenizer.decode(ids, skip_special_tokens=True)
    return case


def decode_cases(tokenizer: Tokenizer) -> list[dict]:
    rng = random.Random(5)
    size = tokenizer.get_vocab_size()
    lists = [[rng.randrange(size) for _ in range(rng.randint(1, 10))] for _ in range(40)]
    cut = tokenizer.encode("日本 👩‍🚀 naïve", add_special_tokens=False).ids
    lists += [cut[:k] for k in range(1, len(cut))] + [cut[k:] for k in range(1, len(cut), 2)]
    return [{"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False),
             "text_skip": tokenizer.decode(ids, skip_special_tokens=True)} for ids in lists]


def write_golden(kind: str, folder: Path, shown: str, chunks: list[bytes]) -> dict:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    all_ids = [tokenizer.encode(repaired(c), add_special_tokens=False).ids for c in chunks]
    flat = [i for ids in all_ids for i in ids]
    write_json(GOLDEN / f"tokenizer_{kind}.json", {
        "made_by": made_by(__file__, "tokenizers", "sentencepiece", "gguf"),
        "tokenizer": shown,
        "about": ABOUT,
        "corpus": {"path": str(CORPUS.relative_to(ROOT)), "sha256": sha256(CORPUS.read_bytes()),
                   "total_ids": len(flat), "sha256_of_all_ids": digest(flat),
                   "chunks": [[len(ids), digest(ids)[:16]] for ids in all_ids]},
        "strings": [string_case(tokenizer, s) for s in nasty_strings()],
        "decode": decode_cases(tokenizer),
    })
    print(f"{kind}: {len(flat)} ids")
    return {"tokenizer": tokenizer, "ids": all_ids}


def check_against_sentencepiece(kind: str, model, result: dict, chunks: list[bytes]) -> None:
    """A second opinion where no added token and no NUL (SentencePiece's terminator) interferes."""
    same = different = 0
    for chunk, ids in zip(chunks, result["ids"]):
        text = repaired(chunk)
        if "▁" in text or "\0" in text or any(s in text for s in SPECIALS):
            continue
        if kind == "mistral" and text.startswith(" "):
            continue  # Metaspace adds no second space in front, SentencePiece does
        equal = model.encode(text) == ids
        same, different = same + equal, different + (not equal)
        if not equal and different <= 3:
            print("  SentencePiece differs:", repr(text[:80]))
    print(f"{kind}: SentencePiece agrees on {same} chunks, differs on {different}")


def write_repairs() -> None:
    cases = BROKEN + [b"a" + b + b"z" for b in BROKEN] + [BROKEN[i] + BROKEN[-i] for i in range(len(BROKEN))]
    write_json(GOLDEN / "utf8_repair.json", {
        "made_by": made_by(__file__),
        "about": "Bytes in hexadecimal and the text after each maximal broken run became U+FFFD.",
        "cases": [{"hex": c.hex(), "text": repaired(c)} for c in cases]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("smollm2", type=Path)
    args = parser.parse_args()
    chunks = make_corpus()
    CORPUS.parent.mkdir(parents=True, exist_ok=True)
    CORPUS.write_bytes(b"".join(c + SEPARATOR for c in chunks))
    opinions = tokenizer_files.make_all()
    write_repairs()
    write_golden("smollm2", args.smollm2, "the folder that `kv8 import gguf` makes of SmolLM2", chunks)
    for kind in ("llama3", "qwen2", "llama2", "mistral"):
        folder = tokenizer_files.TOKENIZERS / kind
        result = write_golden(kind, folder, str(folder.relative_to(ROOT)), chunks)
        if kind in opinions:
            check_against_sentencepiece(kind, opinions[kind], result, chunks)


if __name__ == "__main__":
    main()
