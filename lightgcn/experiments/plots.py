"""Pictures of a run: learning curves, degrees, a piece of the graph, a map of the items (extra
``lightgcn[plot]``).

Every function returns a Matplotlib figure that no global state knows of, to be shown or saved by
its caller."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.core.checks import checked_count
from lightgcn.core.seeding import make_generator
from lightgcn.core.storage import write_atomic
from lightgcn.datasets import Dataset
from lightgcn.experiments.finished import finished_run
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.subgraph import bipartite_pattern
from lightgcn.ranking.metrics import lower_is_better
from lightgcn.training.config import TrainConfig

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#555555"
_NEW_NEIGHBOURS, _LEAST_ITEMS = 5, 10
_MOST_LETTERS = 28


def require_plot(*modules: str) -> None:
    """Raise a ValueError with the install command if Matplotlib or a given package is missing."""
    for module in ("matplotlib", *modules):
        try:
            import_module(module)
        except ImportError as error:
            raise ValueError(
                f'pictures need {module}, which is not installed: pip install "lightgcn[plot]"'
            ) from error


def learning_curves(
    history: Sequence[dict[str, Any]], config: TrainConfig, *, stacked: bool = False
) -> Any:
    """Draw the losses by epoch and, beside them, the validation metric that chose the best epoch.

    The validation loss is a cross-entropy; it stands beside a training loss of the same kind alone.

    Args:
        history: records of `TrainResult.history`.
        config: the settings that the run was trained with.
        stacked: one below the other, for a narrow page.

    Raises:
        ValueError: if there is no record.
    """
    if not history:
        raise ValueError("there is no epoch to draw")
    figure, (left, right) = _figure(6, 7.5, rows=2) if stacked else _figure(10, 4, columns=2)
    epochs = [record["epoch"] for record in history]
    losses = [record["loss"] for record in history]
    left.plot(epochs, losses, color=BLUE, marker=_marker(losses), ms=4, label="training")
    left.set(xlabel="epoch", ylabel=f"{config.loss} loss", title="Loss")
    validated = [record for record in history if "val" in record]
    if config.loss == "bce" and validated and "loss" in validated[0]["val"]:
        points = [(record["epoch"], record["val"]["loss"]) for record in validated]
        lowest = min(points, key=lambda point: point[1])
        left.plot(
            *zip(*points, strict=True),
            color=ORANGE,
            label=f"validation, lowest in epoch {lowest[0]}",
        )
        _ring(left, lowest, ORANGE)
    left.legend(frameon=False)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if len(epochs) == 1:
            axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    if not validated:
        right.text(
            0.5,
            0.5,
            "no validation",
            ha="center",
            va="center",
            color=GREY,
            transform=right.transAxes,
        )
        right.set_axis_off()
        return figure
    name = config.metric
    others = [other for other in ("recall@20", "ndcg@20") if other != name and "@" in name]
    for metric, colour in zip((name, *others), (BLUE, GREEN, ORANGE), strict=False):
        points = [
            (record["epoch"], record["val"][metric])
            for record in validated
            if metric in record["val"]
        ]
        points = [(epoch, value) for epoch, value in points if value is not None]
        if not points:
            continue
        label = metric
        if metric == name:
            choose, word = (min, "lowest") if lower_is_better(name) else (max, "best")
            epoch, value = best = choose(points, key=lambda point: point[1])
            _ring(right, best, colour)
            label = f"{metric}, {word} {value:.4f} in epoch {epoch}"
        right.plot(
            *zip(*points, strict=True), color=colour, marker=_marker(points), ms=4, label=label
        )
    right.set(xlabel="epoch", ylabel="validation", title="Validation")
    if right.lines:
        right.legend(frameon=False)
    return figure


def degree_distributions(
    interactions: Interactions, *, user: str = "user", item: str = "item"
) -> Any:
    """Draw, for both sides, the share of nodes with at least a number of edges.

    Args:
        interactions: the graph.
        user: noun for a user.
        item: noun for an item.

    Raises:
        ValueError: if the graph has no edge.
    """
    if not interactions.num_edges:
        raise ValueError(f"there are no degrees to draw of a graph without edges: {interactions}")
    figure, axes = _figure(6, 4)
    for degrees, name, colour, style in (
        (interactions.user_degrees, user, BLUE, "-"),
        (interactions.item_degrees, item, ORANGE, "--"),
    ):
        counts = torch.bincount(degrees.cpu())
        # Number of nodes with at least each degree.
        at_least = counts.flip(0).cumsum(0).flip(0)
        values = counts.nonzero().flatten()
        values = values[values > 0]
        mean = float(degrees.double().mean()) if len(degrees) else 0.0
        axes.plot(
            values.numpy(),
            (at_least[values].double() / max(len(degrees), 1)).numpy(),
            style,
            color=colour,
            label=f"{len(degrees):,} {name}s, {mean:.1f} on average",
            drawstyle="steps-pre",
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="edges",
        ylabel="share with at least so many",
        title="Degrees",
    )
    axes.xaxis.set_major_formatter(_plain_number)
    axes.xaxis.set_minor_formatter(_plain_number if counted_decades(axes) < 2 else "")
    axes.legend(frameon=False)
    return figure


def graph_picture(
    interactions: Interactions,
    *,
    num_nodes: int = 300,
    seed: int = 0,
    user: str = "user",
    item: str = "item",
) -> Any:
    """Draw a connected part of the graph: users and items in two colours, larger with more edges.

    The part grows from a random user of average degree by a few random neighbours of each node, and
    has all edges between its nodes.

    Args:
        interactions: the graph.
        num_nodes: number of nodes, at most.
        seed: of the draws and of the layout.
        user: noun for a user.
        item: noun for an item.

    Raises:
        ValueError: if the graph has no edge, or ``num_nodes`` is less than 2.
    """
    require_plot("networkx")
    import networkx

    num_nodes = checked_count("num_nodes", num_nodes, 2)
    if not interactions.num_edges:
        raise ValueError(f"there is nothing to draw of a graph without edges: {interactions}")
    matrix = bipartite_pattern(interactions)
    nodes = _snowball(matrix, interactions.num_users, num_nodes, seed)
    piece = matrix[nodes][:, nodes]
    graph = networkx.from_scipy_sparse_array(piece)
    layout = networkx.spring_layout(graph, seed=seed, k=1.6 / np.sqrt(len(nodes)), iterations=120)
    points = np.array([layout[node] for node in range(len(nodes))])
    figure, axes = _figure(8, 7)
    rows, columns = piece.nonzero()
    lines = np.stack([points[rows], points[columns]], axis=1)[rows < columns]
    from matplotlib.collections import LineCollection

    axes.add_collection(
        LineCollection(list(lines), colors=GREY, linewidths=0.4, alpha=0.25, zorder=1)
    )
    degrees = np.diff(matrix.indptr)[nodes]
    is_user = nodes < interactions.num_users
    for mask, colour, shape, name in ((is_user, BLUE, "s", user), (~is_user, ORANGE, "o", item)):
        sizes = 12 + 90 * np.sqrt(degrees[mask] / max(degrees.max(), 1))
        axes.scatter(
            *points[mask].T,
            s=sizes,
            c=colour,
            marker=shape,
            linewidths=0.4,
            edgecolors="white",
            zorder=2,
            label=f"{int(mask.sum())} {name}s",
        )
    axes.set_title(
        f"A piece of the graph: {len(nodes):,} of {interactions.num_nodes:,} nodes, {len(lines):,} "
        "edges"
    )
    axes.set_axis_off()
    axes.legend(frameon=False, loc="lower left", markerscale=0.8)
    return figure


def embedding_map(
    items: Tensor,
    popularity: Tensor,
    names: Sequence[str] | None = None,
    *,
    num_items: int = 2000,
    num_names: int = 30,
    seed: int = 0,
    user: str = "user",
    item: str = "item",
) -> Any:
    """Draw a map of the most popular items by the directions of their embeddings (t-SNE).

    Args:
        items: (num_items, d) final embeddings.
        popularity: (num_items,) number of users of each item; the colour.
        names: of the items; names of the most popular ones are written if there is room.
        num_items: number of items to draw.
        num_names: number of names to write, at most.
        seed: of the layout.
        user: noun for a user.
        item: noun for an item.

    Raises:
        ValueError: if there are fewer than 10 items, all embeddings point the same way, or sizes do
            not fit.
    """
    require_plot("sklearn")
    from matplotlib.colors import LogNorm
    from sklearn.manifold import TSNE

    if (
        items.ndim != 2
        or popularity.shape != items.shape[:1]
        or (names is not None and len(names) != len(items))
    ):
        raise ValueError(
            "expected (num_items, d) embeddings with as many counts and names, got "
            f"{tuple(items.shape)}"
        )
    num_items = checked_count("num_items", num_items, _LEAST_ITEMS)
    if len(items) < _LEAST_ITEMS:
        raise ValueError(f"a map needs at least {_LEAST_ITEMS} items, got {len(items)}")
    chosen = popularity.cpu().argsort(descending=True, stable=True)[:num_items]
    directions = F.normalize(items.detach().cpu()[chosen].float()).numpy()
    if float(directions.std(axis=0).max()) < 1e-4:
        raise ValueError(
            "a map needs embeddings of different directions, but all have the same: the model has "
            "not learned"
        )
    perplexity, start = min(30.0, (len(chosen) - 1) / 3), "pca" if items.shape[1] > 1 else "random"
    points = TSNE(
        init=start, perplexity=perplexity, random_state=seed, metric="cosine"
    ).fit_transform(directions)
    counts = popularity.cpu()[chosen].clamp(min=1).numpy()
    figure, axes = _figure(9, 8)
    dots = axes.scatter(
        *points[::-1].T, c=counts[::-1], norm=LogNorm(), cmap="viridis_r", s=9, linewidths=0
    )
    bar = figure.colorbar(dots, ax=axes, label=f"{user}s", shrink=0.6, format=_plain_number)
    bar.ax.yaxis.set_minor_formatter(_plain_number if counts.max() < 100 * counts.min() else "")
    which = (
        f"All {len(items):,}"
        if len(chosen) == len(items)
        else f"The {len(chosen):,} most popular of {len(items):,}"
    )
    axes.set_title(f"{which} {item}s, by direction of their embeddings (t-SNE)")
    axes.set_axis_off()
    if names is not None:
        _write_names(figure, axes, points, [names[place] for place in chosen.tolist()], num_names)
    return figure


def plot_run(
    dataset: Dataset,
    folder: str | Path,
    out: str | Path,
    *,
    num_nodes: int = 300,
    num_items: int = 2000,
    seed: int = 0,
) -> list[Path]:
    """Draw all pictures of a run, write each as PNG and SVG, and return the files.

    With fewer than ten items there is no map.

    Args:
        dataset: dataset of the run.
        folder: the run folder.
        out: folder of ``curves``, ``degrees``, ``graph`` and ``map``.
        num_nodes: number of nodes in the picture of the graph.
        num_items: number of items on the map.
        seed: of draws and layouts.

    Raises:
        FileNotFoundError: if the folder is no run folder, or training has not ended in it.
        ValueError: if Matplotlib or scikit-learn is not installed, the dataset is not the run's, or
            there are too few nodes or items.
    """
    require_plot("sklearn", "networkx")
    # Check everything before the slow drawing.
    num_items, num_nodes = (
        checked_count("num_items", num_items, _LEAST_ITEMS),
        checked_count("num_nodes", num_nodes, 2),
    )
    if not 0 <= checked_count("seed", seed) < 2**32:
        raise ValueError(f"seed must be below 2**32, got {seed}")
    config, recommender, history, _ = finished_run(dataset, folder)
    Path(out).mkdir(parents=True, exist_ok=True)
    graph, (user, item) = dataset.interactions, nouns(dataset)
    figures = {
        "curves": learning_curves(history, config.settings.train),
        "degrees": degree_distributions(graph, user=user, item=item),
        "graph": graph_picture(graph, num_nodes=num_nodes, seed=seed, user=user, item=item),
    }
    if graph.num_items >= _LEAST_ITEMS:
        directions, names = recommender.ranker.item_directions, dataset.items.get("name")
        figures["map"] = embedding_map(
            directions,
            graph.item_degrees,
            names,
            num_items=num_items,
            seed=seed,
            user=user,
            item=item,
        )
    return [
        file for name, figure in figures.items() for file in save_figure(figure, Path(out) / name)
    ]


def nouns(dataset: Dataset) -> tuple[str, str]:
    """Return nouns for users and items: playlist and track, if the items have artists."""
    return ("playlist", "track") if "artist" in dataset.items else ("user", "item")


def save_figure(figure: Any, path: str | Path) -> list[Path]:
    """Write a figure as PNG and as SVG beside it; return the two files."""
    written = []
    for kind in ("png", "svg"):
        file = Path(f"{path}.{kind}")
        write_atomic(file, partial(draw, figure, kind=kind))
        written.append(file)
    return written


def draw(figure: Any, target: Any, kind: str) -> None:
    """Draw a figure into a file or a stream, "png" or "svg": the same data gives the same bytes."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "lightgcn"}), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from"
        )  # of names in other scripts
        figure.savefig(
            target, dpi=150, format=kind, metadata={"Date": None} if kind == "svg" else None
        )


def counted_decades(axes: Any) -> float:
    """Return the number of powers of ten on a logarithmic x axis."""
    low, high = axes.get_xlim()
    return float(np.log10(high / low))


def _plain_number(value: float, _: Any = None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    require_plot()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns)
    for each in np.atleast_1d(axes):
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25)
    return figure, axes


def _marker(points: Sequence[Any]) -> str | None:
    return "o" if len(points) < 40 else None


def _ring(axes: Any, point: tuple[int, float], colour: str) -> None:
    axes.scatter(*point, s=110, facecolors="none", edgecolors=colour, linewidths=1.8, zorder=3)


def _snowball(matrix: Any, num_users: int, num_nodes: int, seed: int) -> npt.NDArray[np.int64]:
    """Return nodes that grow from a user of average degree, a few random neighbours of each at a
    time, increasing."""
    generator = make_generator(seed)
    degrees = np.diff(matrix.indptr)
    users = np.flatnonzero(degrees[:num_users])
    distance = np.abs(degrees[users] - np.median(degrees[users]))
    middle = users[np.argsort(distance, kind="stable")[: max(1, len(users) // 10)]]
    start = int(
        middle[
            int(
                torch.randint(len(middle), (), generator=generator, dtype=torch.int64, device="cpu")
            )
        ]
    )
    found, waiting = {start}, [start]
    while waiting and len(found) < num_nodes:
        node = waiting.pop(0)
        near = matrix.indices[matrix.indptr[node] : matrix.indptr[node + 1]]
        order = torch.randperm(
            len(near), generator=generator, dtype=torch.int64, device="cpu"
        ).numpy()
        new = [int(other) for other in near[order] if int(other) not in found][:_NEW_NEIGHBOURS]
        new = new[: num_nodes - len(found)]
        found.update(new)
        waiting += new
    return np.array(sorted(found))


def _write_names(figure: Any, axes: Any, points: Any, names: Sequence[str], count: int) -> None:
    """Write names, the first one first, wherever none that is there already is in the way."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke

    canvas: Any = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()  # so that the axes are where they will be
    renderer = canvas.get_renderer()
    taken: list[Any] = []
    for written, point in zip(names, points, strict=True):
        if len(taken) == count:
            break
        name = " ".join(
            "".join(letter if letter.isprintable() else " " for letter in written).split()
        )
        if not name:
            continue
        short = name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…"
        # A dollar sign would begin a formula.
        text = axes.annotate(
            short.replace("$", r"\$"), point, (4, 3), textcoords="offset points", fontsize=8
        )
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            box = text.get_window_extent(renderer)
        inside = (
            axes.bbox.x0 <= box.x0
            and box.x1 <= axes.bbox.x1
            and axes.bbox.y0 <= box.y0
            and box.y1 <= axes.bbox.y1
        )
        if not inside or any(box.overlaps(other) for other in taken):
            text.remove()
            continue
        taken.append(box.expanded(1.02, 1.25))
