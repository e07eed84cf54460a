"""The examples in the docstrings of the package print what they show."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import lightgcn

ROOT = Path(__file__).resolve().parent.parent
FILES = [file for file in (ROOT / "lightgcn").rglob("*.py") if ">>>" in file.read_text()]
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in FILES
)
# What examples import and the package alone does not bring: start of a module's name to package.
EXTRAS = {
    "lightgcn.challenge": "sklearn",
    "lightgcn.convert": "networkx",
    "lightgcn.experiments.plots": "matplotlib",
    "lightgcn.experiments.report": "matplotlib",
    "lightgcn.training.tuning": "optuna",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, package in EXTRAS.items():
        if name.startswith(module):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=flags)
    for test in doctest.DocTestFinder(exclude_empty=True).find(import_module(name)):
        runner.run(test, out=output.append)
    assert not runner.failures, "".join(output)


def test_every_public_name_has_an_example() -> None:
    folders = ("graph", "nn", "ranking", "training", "datasets", "challenge")
    modules = [lightgcn, *(import_module(f"lightgcn.{folder}") for folder in folders)]
    public = {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules
        for name in module.__all__
    }
    # A constant has no docstring of its own.
    named = [name for name in public if not name.split(".")[-1].isupper()]
    assert not [name for name in named if ">>>" not in (public[name].__doc__ or "")]
