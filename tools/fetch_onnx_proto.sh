#!/usr/bin/env bash
# Takes onnx.proto out of the Python package onnx and checks its hash:
# fetch_onnx_proto.sh VERSION SHA256 TARGET_FILE
set -euo pipefail
version=$1 sha256=$2 target=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "kv8: fetching onnx.proto from the Python package onnx $version" >&2
python3 -m pip download --quiet --no-deps --only-binary=:all: -d "$work" "onnx==$version"
python3 - "$work" "$sha256" "$target" <<'PY'
import glob, hashlib, os, sys, zipfile
work, sha256, target = sys.argv[1:]
wheel = glob.glob(os.path.join(work, "onnx-*.whl"))[0]
text = zipfile.ZipFile(wheel).read("onnx/onnx.proto")
found = hashlib.sha256(text).hexdigest()
if found != sha256:
    sys.exit(f"onnx.proto has SHA-256 {found}, expected {sha256}")
os.makedirs(os.path.dirname(target), exist_ok=True)
with open(target + ".tmp", "wb") as out:
    out.write(text)
os.replace(target + ".tmp", target)
PY
