"""The examples in the docstrings of the package print what they show."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

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
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=flags)
    for test in doctest.DocTestFinder(exclude_empty=True).find(import_module(name)):
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
