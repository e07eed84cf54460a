"""Pictures: that they show what they are of. What they look like was looked at."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch

from lightgcn import Interactions, preset
from lightgcn.cli import main as cli

plots = pytest.importorskip("lightgcn.experiments.plots")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

PAIRS = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (3, 3)]


def graph_of(pairs: list[tuple[int, int]], num_users: int, num_items: int) -> Interactions:
    return Interactions.from_edge_index(torch.tensor(pairs).T, num_users, num_items)


def lines_of(axes: Any) -> dict[str, list[tuple[float, float]]]:
    return {
        line.get_label(): [tuple(point) for point in line.get_xydata().tolist()]
        for line in axes.get_lines()
    }


def record(epoch: int, train: float, **val: float) -> dict[str, Any]:
    names = {name.replace("_at_", "@"): value for name, value in val.items()}
    return {"epoch": epoch, "loss": train} | ({"val": names} if val else {})


def test_curves_of_link_prediction_mark_the_lowest_validation_loss() -> None:
    history = [
        record(1, 0.7, loss=0.68, roc_auc=0.6),
        record(2, 0.5, loss=0.52, roc_auc=0.8),
        record(3, 0.4, loss=0.55, roc_auc=0.82),
    ]
    left, right = plots.learning_curves(history, preset("tutorial").train).axes
    assert lines_of(left) == {
        "training": [(1, 0.7), (2, 0.5), (3, 0.4)],
        "validation, lowest in epoch 2": [(1, 0.68), (2, 0.52), (3, 0.55)],
    }
    assert lines_of(right) == {"roc_auc, best 0.8200 in epoch 3": [(1, 0.6), (2, 0.8), (3, 0.82)]}
    assert [ring.get_offsets().tolist() for axes in (left, right) for ring in axes.collections] == [
        [[2, 0.52]],
        [[3, 0.82]],
    ]


def test_curves_of_a_ranking_have_no_validation_loss_of_another_kind() -> None:
    history = [record(1, 5.0), record(2, 4.0, loss=0.6, recall_at_20=0.1, ndcg_at_20=0.05)]
    left, right = plots.learning_curves(history, preset("fast").train).axes
    assert list(lines_of(left)) == ["training"] and "softmax" in left.get_ylabel()
    assert lines_of(right) == {
        "recall@20, best 0.1000 in epoch 2": [(2, 0.1)],
        "ndcg@20": [(2, 0.05)],
    }
    left, right = plots.learning_curves([record(1, 5.0)], preset("fast").train).axes
    assert not right.get_lines() and right.texts[0].get_text() == "no validation"
    with pytest.raises(ValueError, match="no epoch"):
        plots.learning_curves([], preset("fast").train)


def test_degrees_are_shares_of_nodes_with_at_least_so_many() -> None:
    axes = plots.degree_distributions(graph_of(PAIRS, 5, 4), user="playlist", item="track").axes[0]
    # Users have 3, 1, 1, 1, 0 edges, items 3, 1, 1, 1.
    assert lines_of(axes) == {
        "5 playlists, 1.2 on average": [(1, pytest.approx(0.8)), (3, pytest.approx(0.2))],
        "4 tracks, 1.5 on average": [(1, 1.0), (3, 0.25)],
    }


def test_a_piece_of_the_graph_is_connected_and_has_all_edges_between_its_nodes() -> None:
    figure = plots.graph_picture(
        graph_of(PAIRS, 5, 4), num_nodes=100, user="playlist", item="track"
    )
    (axes,) = figure.axes
    edges, users, items = axes.collections
    # From any of users 0 to 2, or from 3 alone.
    sizes = (len(users.get_offsets()), len(items.get_offsets()), len(edges.get_segments()))
    assert sizes in ((3, 3, 5), (1, 1, 1))
    assert axes.get_legend_handles_labels()[1] == [f"{sizes[0]} playlists", f"{sizes[1]} tracks"]
    small = plots.graph_picture(
        graph_of([(u, i) for u in range(20) for i in range(20)], 20, 20), num_nodes=12
    )
    assert sum(len(dots.get_offsets()) for dots in small.axes[0].collections[1:]) == 12
    with pytest.raises(ValueError, match="num_nodes must be an integer of at least 2, got 1"):
        plots.graph_picture(graph_of(PAIRS, 5, 4), num_nodes=1)
    empty = graph_of(PAIRS, 5, 4).select(torch.arange(0))
    for draw in (plots.graph_picture, plots.degree_distributions):
        with pytest.raises(ValueError, match="without edges"):
            draw(empty)


def test_a_piece_of_the_graph_never_starts_where_there_is_nothing() -> None:
    graph = graph_of([(user, item) for user in range(5) for item in range(4)], 100, 4)
    for seed in range(8):
        (axes,) = plots.graph_picture(graph, seed=seed).figure.axes
        assert len(axes.collections[0].get_segments()) == 20


@pytest.mark.parametrize(("width", "fill"), [(4, 1.0), (4, 0.0), (1, 1.0)])
def test_a_map_of_embeddings_that_are_all_alike_is_refused(width: int, fill: float) -> None:
    with pytest.raises(ValueError, match="different directions"):
        plots.embedding_map(torch.full((50, width), fill), torch.arange(50))


def test_a_map_of_one_dimension_and_of_names_that_are_none() -> None:
    items = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    names = ["", "  ", "\n", "one\nline\x1b", *["name"] * 26]
    figure = plots.embedding_map(
        items, torch.arange(30).flip(0), names, user="playlist", num_names=3
    )
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert 1 <= len(texts) <= 3 and set(texts) <= {"one line", "name"}
    assert figure.axes[1].get_ylabel() == "playlists"
    for count in (0, 9, -3, 2.5):
        with pytest.raises(ValueError, match="num_items must be an integer of at least 10"):
            plots.embedding_map(items, torch.arange(30), num_items=count)  # type: ignore[arg-type]


def test_names_in_other_scripts_are_no_warnings(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    items = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    figure = plots.embedding_map(items, torch.arange(20), ["日本 🎵"] * 20)
    plots.save_figure(figure, tmp_path / "map")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_the_same_data_gives_the_same_files_and_names_keep_their_dots(tmp_path: Path) -> None:
    for name in ("a0.5", "b0.7"):
        plots.save_figure(plots.degree_distributions(graph_of(PAIRS, 5, 4)), tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {
        "a0.5.png",
        "a0.5.svg",
        "b0.7.png",
        "b0.7.svg",
    }
    for kind in ("png", "svg"):
        assert (tmp_path / f"a0.5.{kind}").read_bytes() == (tmp_path / f"b0.7.{kind}").read_bytes()


def test_curves_of_one_epoch_and_of_a_metric_that_is_missing() -> None:
    record = {"epoch": 1, "loss": 0.5, "seconds": 1.0, "val": {"recall@20": None}}
    figure = plots.learning_curves([record], preset("fast").train)
    left, right = figure.axes
    assert [tick for tick in left.get_xticks() if 0.6 <= tick <= 1.4] == [1.0]
    assert not right.lines


def test_the_map_draws_the_most_popular_and_writes_names_that_are_no_formulas() -> None:
    items = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    popularity = torch.arange(40)
    names = [f"${number}$ a name that is far too long to be written" for number in range(40)]
    figure = plots.embedding_map(items, popularity, names, num_items=30, num_names=5)
    axes = figure.axes[0]
    assert len(axes.collections[0].get_offsets()) == 30
    written = [text.get_text() for text in axes.texts]
    assert 1 <= len(written) <= 5 and all(
        text.endswith("…") and text.startswith(r"\$") for text in written
    )
    # Of the most popular first; where a point lies at the edge of the map there may be no room for
    # its name.
    numbers = [int(text.split(r"\$")[1]) for text in written]
    assert numbers == sorted(numbers, reverse=True) and numbers[0] >= 35
    with pytest.raises(ValueError, match="at least 10 items, got 4"):
        plots.embedding_map(items[:4], popularity[:4])
    with pytest.raises(ValueError, match="as many counts and names"):
        plots.embedding_map(items, popularity, names[:3])


@pytest.mark.slow
def test_names_do_not_overlap() -> None:
    items = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    figure = plots.embedding_map(
        items, torch.arange(300), [f"name {number}" for number in range(300)], num_names=300
    )
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert len(boxes) > 10
    assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])


@pytest.mark.slow
def test_the_command_writes_png_and_svg(
    slices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared, run = tmp_path / "prepared", tmp_path / "run"
    assert cli.main(["prepare", str(slices), str(prepared), "--largest-component"]) == 0
    command = [
        "train",
        str(prepared),
        str(run),
        "--preset",
        "fast",
        "--embedding-dim",
        "8",
        "--epochs",
        "4",
    ]
    assert cli.main([*command, "--batch-size", "512"]) == 0
    capsys.readouterr()
    pictures = ["--nodes", "40", "--items", "60", "--json"]
    assert cli.main(["plot", str(run), *pictures]) == 0
    files = [Path(file) for file in json.loads(capsys.readouterr().out)["files"]]
    assert [file.name for file in files] == [
        f"{name}{suffix}"
        for name in ("curves", "degrees", "graph", "map")
        for suffix in (".png", ".svg")
    ]
    for file in files:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5000
        else:
            assert ET.parse(file).getroot().tag.endswith("svg")
    before = {file: file.read_bytes() for file in files if file.suffix == ".png"}
    assert cli.main(["plot", str(run), *pictures]) == 0
    assert all(file.read_bytes() == data for file, data in before.items())
    (run / "recommender.safetensors").unlink()
    assert cli.main(["plot", str(run)]) == 2
    assert "training has not ended here yet" in capsys.readouterr().err
