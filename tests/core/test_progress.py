"""Progress bars are shown on a terminal and in a notebook, and hidden elsewhere."""

from __future__ import annotations

import io
import re
import sys
import types
from pathlib import Path

import pytest

from lightgcn import LightGCN, fit, preset, split_edges
from lightgcn.core.progress import in_notebook, progress_bar
from lightgcn.datasets import synthetic_interactions

ROOT = Path(__file__).resolve().parents[2]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def kernel(monkeypatch: pytest.MonkeyPatch, **config: object) -> None:
    """Pretend that this process runs IPython."""
    shell = types.SimpleNamespace(config=config)
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)


def drawn(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, shown: bool) -> str:
    monkeypatch.setattr(sys, "stderr", stderr)
    assert list(progress_bar(range(3), shown=shown, desc="work", mininterval=0)) == [0, 1, 2]
    with progress_bar(total=5, shown=shown, desc="by hand") as bar:
        bar.update(5)
    return stderr.getvalue()


def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_notebook()
    assert drawn(monkeypatch, io.StringIO(), True) == ""
    assert drawn(monkeypatch, _Terminal(), False) == ""
    text = drawn(monkeypatch, _Terminal(), True)
    assert "work" in text and "3/3" in text and "by hand" in text and "5/5" in text


def test_a_bar_is_drawn_in_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stderr of a kernel is no terminal."""
    kernel(monkeypatch, IPKernelApp={})
    assert in_notebook()
    text = drawn(monkeypatch, io.StringIO(), True)
    assert "work" in text and "3/3" in text
    assert drawn(monkeypatch, io.StringIO(), False) == ""


def test_ipython_in_a_pipe_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel(monkeypatch, TerminalIPythonApp={})
    assert not in_notebook() and drawn(monkeypatch, io.StringIO(), True) == ""


def test_training_shows_its_bar_in_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel(monkeypatch, IPKernelApp={})
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    settings = preset("paper", epochs=2, batch_size=64, embedding_dim=4)
    fit(
        LightGCN(60, 40, 4, 3),
        split_edges(synthetic_interactions(60, 40, 600)),
        settings,
        progress=True,
    )
    assert "train" in stderr.getvalue() and "recall@20" in stderr.getvalue()


def test_no_module_makes_a_bar_of_its_own() -> None:
    own = re.compile(r"\btqdm\(|(import|from) tqdm")
    files = [
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "lightgcn").rglob("*.py")
        if own.search(file.read_text())
    ]
    assert files == ["lightgcn/core/progress.py"]


@pytest.mark.slow
def test_a_notebook_shows_bars_and_results(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel")
    cells = (
        "import lightgcn\n"
        "from lightgcn.datasets import synthetic_interactions\n"
        "split = lightgcn.split_edges(synthetic_interactions(60, 40, 600))\n"
        "settings = lightgcn.preset('paper', epochs=3, batch_size=64, embedding_dim=4)\n"
        "model = settings.new_model(split.val.message)",
        "lightgcn.fit(model, split, settings, progress=True)",
        "lightgcn.evaluate(model, split.test)",
        "lightgcn.Recommender(model, split.train.message).recommend(0, k=3)",
        "split",
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbclient.NotebookClient(notebook, timeout=120).execute()
    outputs = [cell.outputs for cell in notebook.cells]
    written = "".join(
        str(output.get("text", "")) + str(output.get("data", {})) for output in outputs[1]
    )
    assert "train" in written and "recall@20" in written
    for shown, word in zip(outputs[1:3], ("epochs", "roc_auc"), strict=True):
        assert any(
            "<table>" in output.get("data", {}).get("text/html", "") and word in str(output)
            for output in shown
        )
    assert "Recommendation(" in outputs[3][-1]["data"]["text/plain"]
    assert len(outputs[4][-1]["data"]["text/plain"]) < 400
