#!/usr/bin/env bash
# Takes onnx.proto out of the Python package onnx: fetch_onnx_proto.sh VERSION TARGET_FILE
set -euo pipefail
version=$1 target=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "kv8: fetching onnx.proto from the Python package onnx $version" >&2
python3 -m pip download --quiet --no-deps --only-binary=:all: -d "$work" "onnx==$version"
python3 - "$work" "$target" <<'PY'
import glob, os, sys, zipfile
work, target = sys.argv[1:]
wheel = glob.glob(os.path.join(work, "onnx-*.whl"))[0]
text = zipfile.ZipFile(wheel).read("onnx/onnx.proto")
os.makedirs(os.path.dirname(target), exist_ok=True)
with open(target + ".tmp", "wb") as out:
    out.write(text)
os.replace(target + ".tmp", target)
PY
