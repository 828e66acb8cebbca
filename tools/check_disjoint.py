#!/usr/bin/env python3
"""Proves that the held-out text shares nothing with the calibration text.

    check_disjoint.py [CALIBRATION HELDOUT]

Two rules, the same that the C++ test applies: no common line (after stripping; lines of fewer than
8 characters do not count), and no common run of 8 words, where a word is a maximal run of letters
or digits, lower-cased. Exit status 1 and the offending runs otherwise.
"""

import re
import sys
from pathlib import Path

RUN = 8
ROOT = Path(__file__).resolve().parents[1]


def lines_of(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if len(line.strip()) >= 8}


def runs_of(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i:i + RUN]) for i in range(len(words) - RUN + 1)}


def main() -> int:
    paths = [Path(p) for p in sys.argv[1:3]]
    if len(paths) != 2:
        paths = [ROOT / "data/calibration/builtin.txt", ROOT / "data/eval/heldout.txt"]
    texts = [p.read_text(encoding="utf-8") for p in paths]
    common_lines = lines_of(texts[0]) & lines_of(texts[1])
    common_runs = runs_of(texts[0]) & runs_of(texts[1])
    for line in sorted(common_lines):
        print(f"common line: {line}")
    for run in sorted(common_runs):
        print(f"common run: {' '.join(run)}")
    if common_lines or common_runs:
        return 1
    print(f"disjoint: {len(runs_of(texts[0]))} against {len(runs_of(texts[1]))} runs of {RUN} words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
