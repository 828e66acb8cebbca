"""What every golden script shares: paths, provenance, hashes, JSON layout."""

import hashlib
import importlib.metadata
import json
import platform
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
GOLDEN = DATA / "golden"


def sha256(data) -> str:
    return hashlib.sha256(data).hexdigest()


def made_by(script: str, *packages: str) -> dict:
    """The provenance block that opens every golden file."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions["python"] = platform.python_version()
    return {"script": f"tools/golden/{Path(script).name}", "versions": versions}


def write_json(path: Path, value, compact_lists: bool = True) -> None:
    """Indented JSON in which lists of plain numbers and short hashes stay on one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, ensure_ascii=True)
    if compact_lists:
        item = r'(?:-?[\d.eE+-]+|"[0-9a-f]{16}")'
        short_list = re.compile(rf"\[\s*({item}(?:,\s*{item})*)\s*\]")
        text = short_list.sub(lambda m: "[" + re.sub(r"\s+", "", m.group(1)) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")
