"""Pictures of a run: learning curves, degrees, a piece of the graph, a map of the items (extra ``lightgcn[plot]``).

Every function returns a Matplotlib figure that no global state knows of, to be shown or saved by its caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn.config import TrainConfig, lower_is_better
from lightgcn.datasets import Dataset
from lightgcn.interactions import Interactions
from lightgcn.runs import finished_run
from lightgcn.seeding import make_generator
from lightgcn.subgraph import bipartite_pattern

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#555555"
_NEW_NEIGHBOURS = 5
_MOST_LETTERS = 28


def require_plot() -> None:
    """Raise a ValueError that says how to install what pictures need, where it is not."""
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ValueError('pictures need Matplotlib and scikit-learn: pip install "lightgcn[plot]"') from error


def learning_curves(history: Sequence[dict[str, Any]], config: TrainConfig, *, stacked: bool = False) -> Any:
    """Return the losses by epoch and, beside them, the validation metric that chose the best epoch.

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
        left.plot(*zip(*points, strict=True), color=ORANGE, label=f"validation, lowest in epoch {lowest[0]}")
        _ring(left, lowest, ORANGE)
    left.legend(frameon=False)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    if not validated:
        right.text(0.5, 0.5, "no validation", ha="center", va="center", color=GREY, transform=right.transAxes)
        right.set_axis_off()
        return figure
    name = config.metric
    others = [other for other in ("recall@20", "ndcg@20") if other != name and "@" in name]
    for metric, colour in zip((name, *others), (BLUE, GREEN, ORANGE), strict=False):
        points = [(record["epoch"], record["val"][metric]) for record in validated if metric in record["val"]]
        if not points:
            continue
        label = metric
        if metric == name:
            choose, word = (min, "lowest") if lower_is_better(name) else (max, "best")
            epoch, value = best = choose(points, key=lambda point: point[1])
            _ring(right, best, colour)
            label = f"{metric}, {word} {value:.4f} in epoch {epoch}"
        right.plot(*zip(*points, strict=True), color=colour, marker=_marker(points), ms=4, label=label)
    right.set(xlabel="epoch", ylabel="validation", title="Validation")
    right.legend(frameon=False)
    return figure


def degree_distributions(interactions: Interactions, *, user: str = "user", item: str = "item") -> Any:
    """Return, for both sides, the share of nodes that have at least so many edges.

    Args:
        interactions: the graph.
        user: what a user is called.
        item: what an item is called.
    """
    figure, axes = _figure(6, 4)
    for degrees, name, colour, style in (
        (interactions.user_degrees, user, BLUE, "-"),
        (interactions.item_degrees, item, ORANGE, "--"),
    ):
        counts = torch.bincount(degrees.cpu())
        # How many have at least so many: sums from the end.
        at_least = counts.flip(0).cumsum(0).flip(0)
        values = counts.nonzero().flatten()
        values = values[values > 0]
        mean = float(degrees.double().mean()) if len(degrees) else 0.0
        axes.plot(
            values.numpy(), (at_least[values] / max(len(degrees), 1)).numpy(), style, color=colour,
            label=f"{len(degrees):,} {name}s, {mean:.1f} on average", drawstyle="steps-pre",
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="edges", ylabel="share with at least so many", title="Degrees")
    axes.legend(frameon=False)
    return figure


def graph_picture(
    interactions: Interactions, *, num_nodes: int = 300, seed: int = 0, user: str = "user", item: str = "item"
) -> Any:
    """Return a connected piece of the graph: users and items in two colours, the larger the more edges they have.

    The piece grows from a random user of average degree by a few random neighbours of each node; edges are all those
    between its nodes.

    Args:
        interactions: the graph.
        num_nodes: of the piece, at most.
        seed: of the draws and of the layout.
        user: what a user is called.
        item: what an item is called.

    Raises:
        ValueError: if the graph has no edge, or ``num_nodes`` is less than 2.
    """
    import networkx

    if not interactions.num_edges or num_nodes < 2:
        raise ValueError(f"a picture needs edges and at least 2 nodes, got {interactions} and num_nodes={num_nodes}")
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

    axes.add_collection(LineCollection(list(lines), colors=GREY, linewidths=0.4, alpha=0.25, zorder=1))
    degrees = np.diff(matrix.indptr)[nodes]
    is_user = nodes < interactions.num_users
    for mask, colour, shape, name in ((is_user, BLUE, "s", user), (~is_user, ORANGE, "o", item)):
        sizes = 12 + 90 * np.sqrt(degrees[mask] / max(degrees.max(), 1))
        axes.scatter(*points[mask].T, s=sizes, c=colour, marker=shape, linewidths=0.4, edgecolors="white", zorder=2,
                     label=f"{int(mask.sum())} {name}s")  # fmt: skip
    axes.set_title(f"A piece of the graph: {len(nodes)} of {interactions.num_nodes:,} nodes, {len(lines)} edges")
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
    item: str = "item",
) -> Any:
    """Return a map of the most popular items, near each other where their embeddings point the same way (t-SNE).

    Args:
        items: (num_items, d) final embeddings.
        popularity: (num_items,) how many users each item has; the colour.
        names: of the items; those of the most popular are written where there is room.
        num_items: how many of the items to draw.
        num_names: how many names to write at most.
        seed: of the layout.
        item: what an item is called.

    Raises:
        ValueError: if there are fewer than 10 items, or sizes do not fit.
    """
    require_plot()
    from matplotlib.colors import LogNorm
    from sklearn.manifold import TSNE

    if items.ndim != 2 or popularity.shape != items.shape[:1] or (names is not None and len(names) != len(items)):
        raise ValueError(f"expected (num_items, d) embeddings with as many counts and names, got {tuple(items.shape)}")
    if len(items) < 10:
        raise ValueError(f"a map needs at least 10 items, got {len(items)}")
    chosen = popularity.cpu().argsort(descending=True, stable=True)[:num_items]
    directions = F.normalize(items.detach().cpu().float())[chosen].numpy()
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=seed, metric="cosine").fit_transform(directions)
    counts = popularity.cpu()[chosen].clamp(min=1).numpy()
    figure, axes = _figure(9, 8)
    dots = axes.scatter(*points[::-1].T, c=counts[::-1], norm=LogNorm(), cmap="viridis_r", s=9, linewidths=0)
    figure.colorbar(dots, ax=axes, label="users", shrink=0.6)
    axes.set_title(
        f"The {len(chosen):,} most popular of {len(items):,} {item}s, by direction of their embeddings (t-SNE)"
    )
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
    """Draw all pictures of a run and write each as PNG and SVG; return the files.

    Args:
        dataset: the run's data.
        folder: the run folder.
        out: where ``curves``, ``degrees``, ``graph`` and ``map`` are written.
        num_nodes: of the piece of the graph.
        num_items: on the map.
        seed: of draws and layouts.

    Raises:
        FileNotFoundError: if the folder is no run folder, or training has not ended in it.
        ValueError: if Matplotlib or scikit-learn is not installed, the dataset is not the run's, or there are too few
            nodes or items.
    """
    require_plot()
    config, recommender, history = finished_run(dataset, folder)
    graph, (user, item) = dataset.interactions, nouns(dataset)
    figures = {
        "curves": learning_curves(history, config.train),
        "degrees": degree_distributions(graph, user=user, item=item),
        "graph": graph_picture(graph, num_nodes=num_nodes, seed=seed, user=user, item=item),
        "map": embedding_map(
            recommender.item_directions,
            graph.item_degrees,
            dataset.items.get("name"),
            num_items=num_items,
            seed=seed,
            item=item,
        ),
    }
    return [file for name, figure in figures.items() for file in save_figure(figure, Path(out) / name)]


def nouns(dataset: Dataset) -> tuple[str, str]:
    """Return what the users and the items of a dataset are called: playlists and tracks, where items have artists."""
    return ("playlist", "track") if "artist" in dataset.items else ("user", "item")


def save_figure(figure: Any, path: str | Path) -> list[Path]:
    """Write a figure as PNG and as SVG beside it; return the two files."""
    written = []
    for suffix in (".png", ".svg"):
        file = Path(path).with_suffix(suffix)
        file.parent.mkdir(parents=True, exist_ok=True)
        # Without a date in it a picture of the same data is the same file.
        figure.savefig(file, dpi=150, metadata={"Date": None} if suffix == ".svg" else None)
        written.append(file)
    return written


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
    """Return nodes that grow from a user of average degree, a few random neighbours of each at a time, increasing."""
    generator = make_generator(seed)
    degrees = np.diff(matrix.indptr)
    users = degrees[:num_users]
    middle = np.argsort(np.abs(users - np.median(users[users > 0])), kind="stable")[: max(1, num_users // 10)]
    start = int(middle[int(torch.randint(len(middle), (), generator=generator))])
    found, waiting = {start}, [start]
    while waiting and len(found) < num_nodes:
        node = waiting.pop(0)
        near = matrix.indices[matrix.indptr[node] : matrix.indptr[node + 1]]
        order = torch.randperm(len(near), generator=generator).numpy()
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
    canvas.draw()  # so that the axes are where they will be
    renderer = canvas.get_renderer()
    taken: list[Any] = []
    for name, point in zip(names, points, strict=True):
        if len(taken) == count:
            break
        short = name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…"
        # A dollar sign would begin a formula.
        text = axes.annotate(short.replace("$", r"\$"), point, (4, 3), textcoords="offset points", fontsize=8)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        box = text.get_window_extent(renderer)
        inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
        if not inside or any(box.overlaps(other) for other in taken):
            text.remove()
            continue
        taken.append(box.expanded(1.02, 1.25))
