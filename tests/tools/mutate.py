"""Change the library in one place at a time, and see whether a test notices.

    python tests/tools/mutate.py [--modules metrics split …] [--processes 2] [--show]

A mutant is a module with one operator, comparison, number, condition or statement changed. Its
tests run in a process forked from one that has imported what takes long, stop at the first failure,
and have a minute. A mutant that no test notices survives, and is printed. Left out are texts,
annotations, messages, and the numbers of `TUNING`, which say how much is done at a time: with
others the results are the same, which is what the tests of them assert."""

from __future__ import annotations

import argparse
import ast
import copy
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "metrics": "ranking/metrics.py",
    "negatives": "graph/negatives.py",
    "split": "graph/split.py",
    "propagation": "nn/propagation.py",
}
TESTS = {
    "metrics": ["ranking/test_metrics.py", "ranking/test_evaluation.py"],
    "negatives": ["graph/test_negatives.py", "graph/test_split.py"],
    "split": ["graph/test_split.py", "graph/test_side_nodes.py"],
    "propagation": [
        "nn/test_numerics.py",
        "nn/test_propagation.py",
        "test_known_answer.py",
        "nn/test_model.py",
    ],
}
# How much is done at a time, and from which size on in which of two equal ways: module to names of
# constants.
TUNING = {"propagation": {"_SLAB_BYTES"}}
# Lines on which a change leaves results as they are: a part of the line, what is changed ("" for
# anything), and why.
EQUAL = {
    "metrics": [("gains = 1 / torch.arange(2", "1 -> 2", "gains and ideal grow alike")],
    "negatives": [
        (
            "repeats = missing * (missing / 2 + len(drawn))",
            "Add -> Sub",
            "nothing is drawn yet, but in a second round",
        ),
    ],
    "split": [
        ("sum(shares) - 1) > 1e-6", "Gt -> GtE", "no sum is at the bound itself"),
        ("if 1 - sum(shares[1:]) < 1e-6", "Lt -> LtE", "the same"),
        ("minlength=3", "3 -> 4", "a count of a part that there is not"),
        ("enough = math.ceil(", "", "a bound that is generous in any case"),
        ("near = range(start", "", "the same"),
        (
            "needed = _least_edges(num_edges + 1",
            "",
            "fewer edges than those that are too few are too few",
        ),
        (
            "most = int(degrees.max()) if len(degrees) else 0",
            "0 -> 1",
            "without users nothing is split",
        ),
        ("start = max(most + 1", "", "where to begin to look for a number that is further on"),
    ],
    "propagation": [
        (
            "ordered, order = nodes.sort(stable=True)",
            "True -> False",
            "the same order on a CPU",
        ),
        ("if rows.dtype == torch.float64 or not len(nodes)", "", "two ways to the same sums"),
        ("weights = alpha[1 : highest + 1]", "1 -> 2", "one more layer of weight 0"),
        ("scale = _half_scale", "1.0 -> 2.0", "a power of two, taken back in the end"),
        ("if row is None and scale != 1", "1 -> 2", "a row of ones"),
        ('if x.device.type == "cpu" and dtype', "", "how many columns go at a time"),
        ("width = _SLAB_BYTES", "", "the same"),
        ("table = start if weights[-1] == 1", "", "times 1"),
        ("start if weight == 1", "1 -> 2", "ratios to the largest weight are 1 at most"),
        ("if at is None and dtype == x.dtype", "", "two ways to the same table"),
        ("bound *= max(adjacency.max_degree, 1)", "1 -> 2", "a factor 2 of room, for degrees of 1"),
        ("if not (0 < bound < math.inf)", "Lt -> LtE", "infinity is caught below"),
        ("return 1.0", "1.0 -> 2.0", "of what is 0 or not finite"),
        ("math.log2(2**15 / bound)), 120", "120 -> 121", "of numbers near the least"),
        (
            "if isinstance(weights, Tensor) or x.device.type",
            "NotEq -> Eq",
            "the way of other devices, which is right as well",
        ),
    ],
}
SECONDS = 60

_COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATOR = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.MatMult: ast.Mult,
}


def mutants(source: str, tuning: set[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the line, what is changed, and the whole source of each mutant of a module."""
    tree = ast.parse(source)
    skipped = {id(part) for node in ast.walk(tree) for part in _left_out(node, tuning)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        for name, change in _changes(node):
            saved = copy.copy(node.__dict__)
            change(node)
            try:
                yield getattr(node, "lineno", 0), name, ast.unparse(ast.fix_missing_locations(tree))
            finally:
                node.__dict__.clear()
                node.__dict__.update(saved)


def _left_out(node: ast.AST, tuning: set[str]) -> Iterator[ast.AST]:
    """Yield what is not changed below a node: annotations, texts, messages, docstrings, numbers
    that only tune."""
    parts: list[ast.AST | None] = []
    if isinstance(node, ast.arg | ast.AnnAssign):
        parts.append(node.annotation)
    if isinstance(node, ast.FunctionDef):
        parts.append(node.returns)
        parts += node.decorator_list
        if node.name == "__repr__":
            parts.append(node)
    if isinstance(node, ast.ClassDef):
        parts += node.decorator_list
    if isinstance(node, ast.Raise | ast.JoinedStr):
        parts.append(node)
    if isinstance(node, ast.Assign) and any(
        getattr(target, "id", "") in tuning for target in node.targets
    ):
        parts.append(node)
    if isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Tuple) for target in node.targets
    ):
        names = {
            getattr(name, "id", "")
            for target in node.targets
            for name in getattr(target, "elts", [])
        }
        if names & tuning:
            parts.append(node)
    for part in parts:
        if part is not None:
            yield from ast.walk(part)


def _changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            other = _COMPARE[type(operator)]
            yield f"{type(operator).__name__} -> {other.__name__}", _setter("ops", place, other())
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        other = _OPERATOR.get(type(node.op))
        if other is not None:
            yield f"{type(node.op).__name__} -> {other.__name__}", _setter("op", None, other())
    elif isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"{type(node.op).__name__} -> {other.__name__}", _setter("op", None, other())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        operand = node.operand
        yield f"without {type(node.op).__name__}", lambda one: one.__dict__.update(op=ast.UAdd(), operand=operand) if not isinstance(one.op, ast.Not) else one.__dict__.update(operand=ast.UnaryOp(ast.Not(), operand))  # fmt: skip
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", _setter("value", None, not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        changed = node.value + 1
        yield f"{node.value} -> {changed}", _setter("value", None, changed)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield "condition negated", _setter("test", None, ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Return) and node.value is not None:
        yield "returns None", _setter("value", None, ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "call left out", _setter("value", None, ast.Constant(None))


def _setter(name: str, place: int | None, value: object) -> object:
    def change(node: ast.AST) -> None:
        if place is None:
            setattr(node, name, value)
        else:
            parts = list(getattr(node, name))
            parts[place] = value
            setattr(node, name, parts)

    return change


def noticed(package: Path, tests: list[str]) -> bool:
    """Run tests on a package in a child process and return whether one failed, or took too long."""
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.setpgid(0, 0)
        sys.path.insert(0, str(package))
        os.chdir(ROOT)
        os.environ["PYTHONPATH"] = str(package)
        import pytest

        arguments = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "-m", "not gpu and not slow"]
        os._exit(int(pytest.main([*arguments, *(str(ROOT / "tests" / name) for name in tests)])))

    def kill(*_: object) -> None:
        os.killpg(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.alarm(SECONDS)
    _, status = os.waitpid(child, 0)
    signal.alarm(0)
    return status != 0


def judge(module: str, share: int, of: int, report: int) -> None:
    """Judge every ``of``-th mutant of a module, in a copy of the package, and write a line for
    each."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder)
        shutil.copytree(
            ROOT / "lightgcn", package / "lightgcn", ignore=shutil.ignore_patterns("__pycache__")
        )
        file = package / "lightgcn" / FILES[module]
        source = file.read_text()
        if noticed(package, TESTS[module]):
            sys.exit(f"{module}: its tests fail, or take too long, without a change")
        for number, (line, what, mutant) in enumerate(mutants(source, TUNING.get(module, set()))):
            if number % of == share:
                file.write_text(mutant)
                os.write(
                    report,
                    f"{module}\t{line}\t{what}\t{int(noticed(package, TESTS[module]))}\n".encode(),
                )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modules", nargs="+", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--show", action="store_true", help="print every mutant as it is judged")
    arguments = parser.parse_args()
    sys.dont_write_bytecode = True
    import hypothesis  # noqa: F401
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import scipy.sparse.linalg  # noqa: F401
    import torch

    torch.set_num_threads(1)
    ok = True
    for module in arguments.modules:
        receive, send = os.pipe()
        children = []
        for share in range(arguments.processes):
            child = os.fork()
            if not child:
                os.close(receive)
                try:
                    judge(module, share, arguments.processes, send)
                except SystemExit as failed:
                    print(failed, file=sys.stderr)
                    os._exit(1)
                os._exit(0)
            children.append(child)
        os.close(send)
        total = killed = equal = 0
        lines = (ROOT / "lightgcn" / FILES[module]).read_text().splitlines()
        with os.fdopen(receive) as stream:
            for entry in stream:
                _, line, what, dead = entry.rstrip("\n").split("\t")
                code = lines[int(line) - 1].strip()
                reason = next(
                    (
                        why
                        for part, change, why in EQUAL.get(module, [])
                        if part in code and change in what
                    ),
                    None,
                )
                total += 1
                killed += int(dead)
                equal += not int(dead) and reason is not None
                if arguments.show or not int(dead):
                    state = (
                        "killed  " if int(dead) else f"equal ({reason})" if reason else "SURVIVED"
                    )
                    print(f"{state} {FILES[module]}:{line} {what}: {code}", flush=True)
        if any(os.waitpid(child, 0)[1] for child in children):
            return 1
        share_killed = killed / max(total - equal, 1)
        print(
            f"{module}: {killed} of {total - equal} mutants killed, {share_killed:.1%}; {equal} "
            "are equal",
            flush=True,
        )
        ok &= share_killed >= 0.95
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
