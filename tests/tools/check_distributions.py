"""What the wheel and the source distribution hold: all that is needed, and nothing else.

python tests/tools/check_distributions.py dist/*
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "lightgcn"
CODE = [f"lightgcn/{path.relative_to(PACKAGE)}" for path in PACKAGE.rglob("*.py")]
BOTH = [*CODE, "lightgcn/py.typed", "lightgcn/experiments/report.html", "LICENSE"]
NEEDED = {
    ".whl": BOTH,
    ".gz": [*BOTH, "tests/nn/test_model.py", "examples/tutorial.py", "README.md", "CITATION.cff"],
}
# No data, no caches, nothing that is large.
FORBIDDEN = (".safetensors", ".pyc", ".json", ".txt.xz", ".parquet", ".npy", ".pt")
LARGEST = 400_000


def members(path: Path) -> dict[str, int]:
    """Return the files of a distribution and their sizes."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {
                entry.filename: entry.file_size for entry in wheel.infolist() if not entry.is_dir()
            }
    with tarfile.open(path) as sources:
        return {
            entry.name.partition("/")[2]: entry.size
            for entry in sources.getmembers()
            if entry.isfile()
        }


def main() -> int:
    paths = [Path(name) for name in sys.argv[1:]]
    found = {path.suffix for path in paths}
    problems = [f"no {suffix} distribution" for suffix in NEEDED if suffix not in found]
    for path in paths:
        files = members(path)
        names = set(files) | {name.rpartition("/")[2] for name in files}
        problems += [
            f"{path.name}: has no {needed}"
            for needed in NEEDED.get(path.suffix, [])
            if needed not in names
        ]
        problems += [
            f"{path.name}: holds {name}, {size:,} bytes"
            for name, size in files.items()
            if name.endswith(FORBIDDEN) or size > LARGEST
        ]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
