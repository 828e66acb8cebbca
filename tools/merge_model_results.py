#!/usr/bin/env python3
"""Joins JSON files of `kv8 bench model` from one machine into one table, docs/results/<machine>/model.json.

`runs` says what each file was: command, ceilings. Every row names its run by `run`, an index into that list."""
import argparse
import json
from pathlib import Path


def print_table(rows: list[dict]) -> None:
    """FP16 beside FP8 in one line a point; says so where FP8 is not the faster one."""
    print("| model | phase | batch | context | FP16 KV, ms | of roofline | FP8 KV, ms | of roofline | FP8 over FP16, tokens/s |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    fp16 = {}
    for row in rows:
        key = (row["geometry"], row["run"], row["phase"], row["context"], row["full_memory"],
               None if row["full_memory"] else row["batch"])
        if row["kv_dtype"] == "fp16":
            fp16[key] = row
            continue
        other = fp16.get(key)
        if other is None:
            continue
        batch = f"{other['batch']} / {row['batch']}" if row["full_memory"] else row["batch"]
        speedup = row["tokens_per_s"] / other["tokens_per_s"]
        print(f"| {row['geometry']} | {row['phase']}{', full memory' if row['full_memory'] else ''} | {batch} | {row['context']} "
              f"| {other['ms']:.3f} | {100 * other['roofline_fraction']:.0f}% | {row['ms']:.3f} | {100 * row['roofline_fraction']:.0f}% "
              f"| {speedup:.2f}x{'' if speedup > 1 else ', not faster'} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print the rows as Markdown, FP16 beside FP8")
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
    lines = [",\n".join("    " + json.dumps(entry) for entry in entries) for entries in (runs, rows)]
    args.out.write_text(f'{{\n  "machine": {json.dumps(machines.pop())},\n  "runs": [\n{lines[0]}\n  ],\n  "rows": [\n{lines[1]}\n  ]\n}}\n')
    if args.table:
        print_table(rows)


if __name__ == "__main__":
    main()
