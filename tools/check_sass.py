#!/usr/bin/env python3
"""Looks into the machine code of compiled CUDA objects: tools/check_sass.py OBJECT...

- Portable prefill with E4M3 products: on every architecture that it was compiled for, FP8 tensor-core instructions
  (QMMA) and no FP16 ones in their place.
- Portable decode: FP8 codes are widened by an instruction (F2FP.F16.E4M3), and the products are FP16 (HMMA).
- No kernel uses local memory on Hopper, and portable attention on no architecture.

Exits with 77 (skipped) where cuobjdump or nvdisasm are missing; both come with the CUDA toolkit and with the Python
packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm of tools/requirements.txt.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def find_tool(name):
    places = [shutil.which(name), "/usr/local/cuda/bin/" + name]
    places += sorted(map(str, ROOT.glob(f".venv/lib/python*/site-packages/nvidia/*/bin/{name}")))
    for place in places:
        if place and pathlib.Path(place).exists():
            return pathlib.Path(place)
    print(f"skipped: no {name}")
    sys.exit(77)


def run(tool, *args, cwd=None):
    # cuobjdump calls nvdisasm, which need not lie beside it.
    result = subprocess.run([tool, *args], cwd=cwd, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{tool.name} {' '.join(map(str, args))}: {result.stderr.strip()}")
    return result.stdout


def kernels(cuobjdump, nvdisasm, obj):
    """(architecture, kernel, list of opcodes) of every kernel in an object."""
    with tempfile.TemporaryDirectory() as folder:
        run(cuobjdump, "-xelf", "all", obj.resolve(), cwd=folder)
        for cubin in sorted(pathlib.Path(folder).glob("*.cubin")):
            architecture = re.search(r"\.(sm_\w+)\.cubin$", cubin.name).group(1)
            for section in re.split(r"^\.text\.", run(nvdisasm, "-c", cubin), flags=re.M)[1:]:
                name, _, code = section.partition(":")
                yield architecture, name, re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)", code)


def count(opcodes, prefix):
    return sum(opcode.startswith(prefix) for opcode in opcodes)


def check_e4m3_prefill(architecture, name, opcodes):
    native = count(opcodes, "QMMA.16832.F32.E4M3.E4M3")
    other = count(opcodes, "HMMA")
    print(f"  {architecture} {name}: {native} QMMA, {other} HMMA")
    return native > 0 and other == 0


def check_decode(architecture, name, opcodes):
    widened = count(opcodes, "F2FP.F16.E4M3")
    products = count(opcodes, "HMMA.16816.F32")
    print(f"  {architecture} {name}: {products} HMMA, {widened} conversions from E4M3")
    return products > 0 and widened > 0  # of Q at least, where the cache is FP16


def check_local_memory(cuobjdump, obj):
    good = True
    architecture = function = ""
    for line in run(cuobjdump, "-res-usage", obj).splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match.group(1)
        elif match := re.match(r"\s*Function (\w+)", line):
            function = match.group(1)
        elif match := re.search(r"STACK:(\d+)", line):
            strict = architecture.startswith("sm_90") or "attention/portable/" in str(obj)
            if strict and int(match.group(1)) > 0:
                print(f"  {obj.name}: {function} has a stack of {match.group(1)} bytes on {architecture}")
                good = False
    return good


def main():
    cuobjdump, nvdisasm = find_tool("cuobjdump"), find_tool("nvdisasm")
    objects = [pathlib.Path(arg) for arg in sys.argv[1:] if arg.endswith((".cu.o", ".cu.obj"))]
    checks = {"portable/prefill/kernels_e4m3": check_e4m3_prefill, "portable/decode/kernels": check_decode}
    good = True
    for part, check in checks.items():
        found = [obj for obj in objects if part in str(obj)]
        if len(found) != 1:
            sys.exit(f"{part}: {len(found)} objects given, expected one")
        print(part)
        for architecture, name, opcodes in kernels(cuobjdump, nvdisasm, found[0]):
            if not check(architecture, name, opcodes):
                print(f"  {architecture} {name}: not what it should be")
                good = False
    for obj in objects:
        good = check_local_memory(cuobjdump, obj) and good
    print(f"{len(objects)} objects", "are as they should be" if good else "were looked at")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
