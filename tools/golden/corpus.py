"""The mixed tokenizer corpus: tests/data/tokenizers/corpus.txt, a little over 1 MB.

A file of chunks, each ended by the byte 0x1E, which occurs nowhere else. Some chunks hold broken
UTF-8 on purpose; a reader replaces it by U+FFFD first. Everything is drawn from the project's own
texts and from Unicode's code charts with a fixed seed, so a second run gives the same bytes.
Random code points are of Unicode 3.2, whose categories and compositions have long been stable.
"""

import random
import re
import unicodedata
from collections import defaultdict

from common import ROOT

SEPARATOR = b"\x1e"
EMOJI = ["😀", "🎉", "🔥", "👍🏽", "👩‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇯🇵", "❤️", "❤", "🧑🏿‍🤝‍🧑🏻", "1️⃣", "#️⃣", "👁️‍🗨️",
         "🤷🏻‍♀️", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "🫠", "☕", "✨", "🚲", "🐻‍❄️", "‼️", "™️"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\u00a0", "\u2003", "\u3000", "\u2028",
          "\u200b", "\u0085", "\x0b", "\x0c", " \n", "\n ", "\t\t ", "        ", " \r\n\r\n  ", "\ufeff"]
SPECIALS = ["<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>",
            "</s>", "<unk>", "[INST]", "[/INST]", "<think>", "</think>", "<tool_call>", "<repo_name>",
            "<|im_start", "im_end|>", "<0x0A>", "▁", "<|im_start|><|im_end|>", "< s >"]
CLITICS = ["'s", "'S", "'re", "'LL", "'d", "'t", "'ve", "'M", "’s", "'x", "''s"]
BROKEN = [b"\xff", b"\xc0\xaf", b"\xe2\x82", b"\xf0\x9f\x98", b"\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
          b"\xc3(", b"\xe2(\xa1", b"\xf0(\x8c(", b"\xfe\xfe\xff\xff", b"\xf0\x80\x80\x80", b"\xe0\x80\x80",
          b"\xbf\xbf", b"\xc2", b"\xf8\x88\x80\x80\x80"]


def stable_points(low: int, high: int) -> list[str]:
    old = unicodedata.ucd_3_2_0
    return [chr(c) for c in range(low, high + 1)
            if old.category(chr(c)) not in ("Cn", "Cs") and c != 0x1E
            and old.category(chr(c)) == unicodedata.category(chr(c))]


BLOCKS = {name: stable_points(low, high) for name, low, high in (
    ("ascii", 0x00, 0x7F), ("latin", 0xA0, 0x24F), ("ipa", 0x250, 0x2FF), ("greek", 0x370, 0x3FF),
    ("cyrillic", 0x400, 0x4FF), ("armenian", 0x530, 0x58F), ("hebrew", 0x590, 0x5FF),
    ("arabic", 0x600, 0x6FF), ("devanagari", 0x900, 0x97F), ("thai", 0xE00, 0xE7F),
    ("georgian", 0x10A0, 0x10FF), ("jamo", 0x1100, 0x11FF), ("latin_ext", 0x1E00, 0x1EFF),
    ("punctuation", 0x2000, 0x206F), ("numbers", 0x2070, 0x218F), ("math", 0x2190, 0x23FF),
    ("boxes", 0x2460, 0x27BF), ("kana", 0x3000, 0x30FF), ("cjk", 0x4E00, 0x9FA5),
    ("hangul", 0xAC00, 0xD7A3), ("compatibility", 0xF900, 0xFAFF), ("forms", 0xFB00, 0xFFEF),
    ("old_italic", 0x10300, 0x1034F), ("math_letters", 0x1D400, 0x1D7FF), ("cjk_b", 0x20000, 0x2A6D6))}
COMBINING = stable_points(0x300, 0x36F)


class Maker:
    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.texts = [(ROOT / p).read_text(encoding="utf-8")
                      for p in ("data/calibration/builtin.txt", "data/eval/heldout.txt")]
        words = " ".join(self.texts).split(" ")
        self.words = words
        self.after = defaultdict(list)
        for a, b, c in zip(words, words[1:], words[2:]):
            self.after[a, b].append(c)
        self.starts = sorted(self.after)
        lines = "\n".join(self.texts).split("\n")
        self.code = [l for l in lines if re.search(r"[{};()=]", l) and len(l) < 140]

    def babble(self, count: int) -> str:
        """Word salad that keeps real words and real neighbourhoods."""
        out = list(self.rng.choice(self.starts))
        while len(out) < count:
            follow = self.after.get((out[-2], out[-1]))
            out.append(self.rng.choice(follow) if follow else self.rng.choice(self.words))
        return " ".join(out)

    def identifier(self) -> str:
        parts = [re.sub(r"\W", "", self.rng.choice(self.words)) or "x"
                 for _ in range(self.rng.randint(1, 4))]
        style = self.rng.randrange(4)
        if style == 0:
            return "_".join(p.lower() for p in parts)
        if style == 1:
            return parts[0].lower() + "".join(p.capitalize() for p in parts[1:])
        return "".join(p.capitalize() for p in parts) if style == 2 else "_".join(parts).upper()

    def program(self, count: int) -> str:
        rows = []
        for _ in range(count):
            row = self.rng.choice(self.code)
            if self.rng.random() < 0.7:
                row = re.sub(r"\b[a-z_]{4,}\b", lambda m: self.identifier()
                             if self.rng.random() < 0.5 else m.group(0), row)
            rows.append("  " * self.rng.randrange(5) * (self.rng.random() < 0.5) + row)
        return self.rng.choice(["\n", "\r\n", "\n\n"]).join(rows)

    def script(self, block: str, count: int) -> str:
        out = []
        while sum(map(len, out)) < count:
            out.append("".join(self.rng.choices(BLOCKS[block], k=self.rng.randint(1, 9))))
            out.append(self.rng.choice([" ", " ", " ", "", ". ", ", ", "\n", "،", "。", "12"]))
        return "".join(out)

    def digits(self) -> str:
        rng = self.rng
        runs = []
        for _ in range(rng.randint(1, 12)):
            run = "".join(rng.choices("0123456789", k=rng.choice([1, 2, 3, 4, 5, 9, 17, 64])))
            runs.append(rng.choice(["", "-", "$", "0x", "№", "x"]) + run
                        + rng.choice(["", "%", "th", "e-7", ".", "²", "½", "٣٤", "१२", "万"]))
        return rng.choice([" ", ",", ".", "", "\t", " + "]).join(runs)

    def mixed(self, pieces: list[str], count: int) -> str:
        """Pieces of one kind between words, sometimes glued to them."""
        out = []
        for _ in range(count):
            out.append(self.rng.choice(self.words) if self.rng.random() < 0.5 else "")
            out.append(self.rng.choice(pieces))
            out.append(self.rng.choice(["", "", " ", "-"]))
        return "".join(out)

    def marks(self, count: int) -> str:
        """Words decomposed, with more marks added, so that NFC has something to do and to reorder."""
        out = []
        for ch in unicodedata.normalize("NFD", self.babble(count)):
            out.append(ch)
            if ch.isalpha() and self.rng.random() < 0.15:
                out.extend(self.rng.choices(COMBINING, k=self.rng.randint(1, 3)))
        return "".join(out)

    def broken(self, count: int) -> bytes:
        out = b""
        for _ in range(count):
            out += self.rng.choice(self.words).encode()[:self.rng.randint(0, 9)]
            out += self.rng.choice(BROKEN) + self.rng.choice([b"", b" ", b"\n"])
        return out


def make_corpus() -> list[bytes]:
    maker = Maker(20240611)
    rng = maker.rng
    chunks = [p.encode() for text in maker.texts for p in text.split("\n\n") if p]

    def add(size: int, make) -> None:
        while size > 0:
            chunk = make()
            chunk = chunk.encode() if isinstance(chunk, str) else chunk
            chunks.append(chunk)
            size -= len(chunk)

    add(330_000, lambda: maker.babble(rng.randint(3, 300)))
    add(140_000, lambda: maker.program(rng.randint(1, 24)))
    for block in BLOCKS:
        weight = {"cjk": 5, "arabic": 4, "hangul": 2, "kana": 2, "ascii": 2, "devanagari": 2}.get(block, 1)
        add(9_000 * weight, lambda: maker.script(block, rng.randint(5, 300)))
    add(35_000, lambda: maker.mixed(EMOJI, rng.randint(1, 30)))
    add(40_000, maker.digits)
    add(45_000, lambda: maker.mixed(SPACES, rng.randint(1, 60)))
    add(25_000, lambda: maker.mixed(SPECIALS, rng.randint(1, 20)))
    add(15_000, lambda: maker.mixed(CLITICS, rng.randint(1, 30)))
    add(60_000, lambda: maker.marks(rng.randint(1, 80)))
    add(20_000, lambda: maker.broken(rng.randint(1, 20)))
    assert not any(SEPARATOR in chunk for chunk in chunks)
    return chunks


def repaired(chunk: bytes) -> str:
    """Every maximal broken run of UTF-8 becomes one U+FFFD (Unicode 15, section 3.9, table 3-8)."""
    return chunk.decode("utf-8", errors="replace")
