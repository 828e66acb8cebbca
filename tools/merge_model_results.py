#!/usr/bin/env python3
"""Joins JSON files of `kv8 bench model` from one machine into one table, docs/results/<machine>/model.json.

`runs` says what each file was: command, ceilings. Every row names its run by `run`, an index into that list."""
import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results = [json.loads(file.read_text()) for file in args.files]
    machines = {result["machine"] for result in results}
    if len(machines) != 1:
        raise SystemExit(f"results of different machines: {', '.join(sorted(machines))}")
    runs, rows = [], []
    for number, result in enumerate(results):
        rows += [{**row, "run": number} for row in result.pop("rows")]
        del result["machine"]
        runs.append(result)
    args.out.write_text(json.dumps({"machine": machines.pop(), "runs": runs, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
