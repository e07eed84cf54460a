"""A run as one self-contained HTML file: settings, data, curves, metrics, and recommendations to
search.

Every text of the data is escaped or inserted as text, and the page's content security policy
forbids to load anything: a playlist named ``<script>`` is shown as text."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version as version_of
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import torch

from lightgcn.core.checks import checked_count
from lightgcn.core.seeding import make_generator
from lightgcn.core.storage import read_json, write_atomic
from lightgcn.datasets import Dataset
from lightgcn.experiments.finished import finished_run
from lightgcn.experiments.plots import (
    degree_distributions,
    draw,
    learning_curves,
    nouns,
    require_plot,
)
from lightgcn.experiments.run import TEST_FILE, TRAINED_FILE, RunConfig
from lightgcn.graph.subgraph import GraphStatistics, graph_statistics
from lightgcn.recommender import Recommender
from lightgcn.training.config import TrainConfig

REPORT_FILE = "report.html"
_OWN_ITEMS = 5
_MODELS = {
    "lightgcn": "LightGCN",
    "popularity": "popularity",
    "item_cosine": "item cosine",
    "ease": "EASE",
    "sparse_ease": "sparse EASE",
    "gf_cf": "GF-CF",
    "cheby_cf": "ChebyCF",
    "mf": "matrix factorisation",
}


def write_report(
    dataset: Dataset,
    folder: str | Path,
    out: str | Path | None = None,
    *,
    num_users: int = 200,
    k: int = 10,
    seed: int = 0,
) -> Path:
    """Write the report of a run and return its file.

    Args:
        dataset: dataset of the run.
        folder: the run folder.
        out: the file; None for ``report.html`` in the run folder.
        num_users: number of users with recommendations, drawn at random.
        k: number of recommendations of each.
        seed: of the draw.

    Raises:
        FileNotFoundError: if the folder is no run folder, or training has not ended in it.
        ValueError: if Matplotlib is not installed, the dataset is not the run's, or a number is out
            of range.
    """
    require_plot()
    folder = Path(folder)
    num_users = checked_count("num_users", num_users, 1)
    config, recommender, history, best_epoch = finished_run(dataset, folder)
    user, item = nouns(dataset)
    test = _test_metrics(folder / TEST_FILE)
    start_seconds = read_json(folder / TRAINED_FILE).get("start_seconds") or 0
    shown = sample_recommendations(recommender, num_users, k, seed)
    name = Path(config.data).name
    parts = [
        f"<h1>LightGCN on {html.escape(name)}</h1>",
        _summary(config, history, best_epoch, start_seconds),
        "<h2>Test</h2>",
        _metrics(test, config.settings.train) if test is not None else _NOT_EVALUATED,
        "<h2>Training</h2>",
        _picture(
            learning_curves(history, config.settings.train, stacked=True),
            "Loss and validation by epoch",
        ),
        "<h2>Data</h2>",
        _statistics(graph_statistics(dataset.interactions), user, item),
        ""
        if dataset.test is None
        else f"<p>and {dataset.test.num_edges:,} test edges that came with them.</p>",
        _picture(
            degree_distributions(dataset.interactions, user=user, item=item),
            "Share of nodes by degree",
        ),
        f"<h2>Recommendations</h2>\n<p>For {len(shown)} {user}s drawn at random, from all known "
        f"edges; {item}s that they have already are left out.</p>",
        f'<label for="search">Search by {user}, or by {item} among those shown</label>\n'
        '<input id="search" type="search" autocomplete="off" placeholder="a name or an id">\n'
        '<p id="count" role="status"></p>\n<div id="results"></div>',
        "<h2>Settings</h2>",
        _table(
            ("setting", "value"),
            [(key, _plain(value)) for key, value in config.settings.flat().items()],
        ),
        _table(("data", "value"), [(key, _plain(getattr(config, key))) for key in _SPLIT]),
        f"<footer>lightgcn {html.escape(version_of('lightgcn'))}, "
        + html.escape(
            ", ".join(f"{package} {version}" for package, version in config.versions.items())
        )
        + "</footer>",
    ]
    # A "<" in a name could end the script.
    data = (
        orjson.dumps({"user": user, "item": item, "rows": shown}).decode().replace("<", "\\u003c")
    )
    texts = {"title": html.escape(f"LightGCN on {name}"), "body": "\n".join(parts), "data": data}
    template = files("lightgcn.experiments").joinpath("report.html").read_text(encoding="utf-8")
    # In one pass, so that inserted text is not replaced again.
    page = re.sub(r"@(title|body|data)@", lambda found: texts[found[1]], template)
    out = folder / REPORT_FILE if out is None else Path(out)
    write_atomic(out, lambda path: path.write_text(page, encoding="utf-8"))
    return out


def sample_recommendations(
    recommender: Recommender, num_users: int, k: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Return randomly drawn users, by index: their names, some of their items, recommendations.

    Args:
        recommender: recommender of the run.
        num_users: number of users to draw among those with items, at most.
        k: number of recommendations of each, at most.
        seed: of the draw.
    """
    seen = recommender.seen
    users = seen.user_degrees.nonzero().flatten().cpu()
    order = torch.randperm(
        len(users), generator=make_generator(seed), dtype=torch.int64, device="cpu"
    )
    drawn = users[order[:num_users]].sort().values
    best = recommender.ranker.top_k(min(k, seen.num_items), drawn)
    rows = []
    for user, items in zip(drawn.tolist(), best.items.tolist(), strict=True):
        own = seen.items_of(user).tolist()
        ids = seen.user_ids
        rows.append(
            {
                "id": str(user if ids is None else ids[user]),
                "name": recommender.user_columns["name"][user].strip()
                if "name" in recommender.user_columns
                else "",
                "count": len(own),
                "own": [_item_names(recommender, item) for item in own[:_OWN_ITEMS]],
                "best": [_item_names(recommender, item) for item in items if item >= 0],
            }
        )
    return rows


def _item_names(recommender: Recommender, index: int) -> list[str]:
    """Return an item's name, with its artist if known; its id if it has no name."""
    found = recommender.item(index)
    name, artist = (found.columns.get(column, "").strip() for column in ("name", "artist"))
    if not name:
        return [str(found.id)]
    return [name, artist] if artist else [name]


def _test_metrics(path: Path) -> dict[str, Any] | None:
    """Return the metrics that `lightgcn evaluate` wrote, None if there are none.

    Raises:
        ValueError: naming the file, if it is something else.
    """
    if not path.is_file():
        return None
    found = read_json(path)
    try:
        return {
            name: {
                "metrics": {metric: float(value) for metric, value in result["metrics"].items()},
                "num_users": int(result["num_users"]),
                "num_links": int(result["num_links"]),
            }
            for name, result in found.items()
        } or None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: does not hold the metrics of an evaluation ({error!r})"
        ) from error


def _summary(
    config: RunConfig, history: Sequence[dict[str, Any]], best: int, start_seconds: float
) -> str:
    seconds = sum(record["seconds"] for record in history) + start_seconds
    value = next(
        (
            record["val"][config.settings.train.metric]
            for record in history
            if record["epoch"] == best
        ),
        None,
    )
    chosen = f"epoch {best} of {len(history)}" if best else f"{len(history)} epochs"
    facts = [
        (
            "model",
            f"{config.settings.model.num_layers} layers, d {config.settings.model.embedding_dim}",
        ),
        ("loss", config.settings.train.loss),
        ("trained", f"{chosen}, {seconds:.0f} s"),
        *(
            []
            if value is None
            else [(f"validation {config.settings.train.metric}", f"{value:.4f}")]
        ),
    ]
    cells = (
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>"
        for name, text in facts
    )
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _metrics(test: dict[str, Any], config: TrainConfig) -> str:
    names = list(
        dict.fromkeys(
            metric for result in test.values() for metric in config.meaningful(result["metrics"])
        )
    )
    rows = [
        (_MODELS.get(model, model), *(_number(result["metrics"].get(metric)) for metric in names))
        for model, result in test.items()
    ]
    first = next(iter(test.values()))
    note = f"<p>{first['num_users']:,} users, {first['num_links']:,} links.</p>"
    return _table(("", *names), rows) + note


def _statistics(statistics: GraphStatistics, user: str, item: str) -> str:
    rows = [
        (
            f"{name}s",
            f"{count:,}",
            f"{degrees.mean:.1f}",
            f"{degrees.median:.0f}",
            f"{degrees.percentile_90:.0f}",
            f"{degrees.most:,}",
            f"{degrees.isolated:,}",
        )
        for name, count, degrees in (
            (user, statistics.users, statistics.user_degrees),
            (item, statistics.items, statistics.item_degrees),
        )
    ]
    head = ("", "how many", "edges: mean", "median", "nine tenths at most", "most", "without any")
    return (
        _table(head, rows)
        + f"<p>{statistics.edges:,} edges, {statistics.density:.2%} of all pairs.</p>"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        parts = [f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells]
        if tag == "td" and parts:  # what the row is about
            parts[0] = f'<th scope="row">{html.escape(cells[0])}</th>'
        return "<tr>" + "".join(parts) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    table = f"<table><thead>{line(head, 'th')}</thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<div class="wide" tabindex="0">{table}</div>'


def _picture(figure: Any, described: str) -> str:
    """Return a figure as an SVG in an <img>, so that ids of two figures do not collide."""
    file = io.BytesIO()
    draw(figure, file, kind="svg")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(described)}" src="data:image/svg+xml;base64,{data}">'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _plain(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)


_NOT_EVALUATED = (
    "<p>Not evaluated yet: run <code>lightgcn evaluate RUN --baselines all</code>, and then the "
    "report again.</p>"
)
_SPLIT = (
    "data",
    "fingerprint",
    "ratios",
    "leave_out",
    "dates",
    "stratify",
    "negatives",
    "split_seed",
    "words",
    "side_nodes",
)
