"""The demonstration: the whole path on synthetic playlists."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lightgcn.core.checks import checked_count
from lightgcn.core.lock import folder_lock, holds_files
from lightgcn.core.storage import read_json, write_json
from lightgcn.datasets import Dataset, read_mpd, write_synthetic_mpd
from lightgcn.datasets.mpd.slices import SLICE_NAME
from lightgcn.experiments.evaluate import evaluate_run
from lightgcn.experiments.run import RECOMMENDER_FILE, RUN_FILES, RunConfig, split_run
from lightgcn.experiments.train import train_run
from lightgcn.graph.subgraph import largest_component
from lightgcn.recommender import Recommendation, Recommender
from lightgcn.training.config import PRESETS, Preset, preset

MARKER_FILE = "lightgcn-demo.json"
_SLICE_SIZE = 1000
# The largest component of fewer playlists can be too small to split.
_LEAST_PLAYLISTS = 50


def run_demo(
    folder: str | Path,
    *,
    num_playlists: int = 10_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda _: None,
    watch: AbstractContextManager[Callable[[], bool]] | None = None,
    progress: bool = False,
) -> dict[str, Any] | None:
    """Write synthetic MPD slices, read them, train, evaluate and recommend, all under ``folder``.

    Args:
        folder: the folder of ``mpd/``, ``prepared/`` and ``run/``: new, empty, or of an earlier
            demo (by its marker file), whose files are replaced; other files are left alone.
        num_playlists: number of synthetic playlists, at least 50.
        seed: of the data, the split and the training.
        device: device to train on.
        say: called with each line of output.
        watch: context of the training, which yields ``should_stop`` of `lightgcn.fit`; if that
            returns True, training ends and the demo returns None.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: before anything is written or replaced, if ``num_playlists`` or ``seed`` is out
            of range, or the folder holds files that are not of a demo.
    """
    settings = _checked_settings(num_playlists, seed)
    with folder_lock(folder):
        return _run_demo(Path(folder), num_playlists, settings, device, say, watch, progress)


def _run_demo(
    folder: Path,
    num_playlists: int,
    settings: Preset,
    device: torch.device | str,
    say: Callable[[str], None],
    watch: AbstractContextManager[Callable[[], bool]] | None,
    progress: bool,
) -> dict[str, Any] | None:
    slices, prepared, run = folder / "mpd", folder / "prepared", folder / "run"
    _claim(folder, num_playlists)
    began = time.monotonic()
    say(
        f"1  Writing {num_playlists:,} synthetic playlists as MPD slices (made-up music, no real "
        f"listener) to {slices}"
    )
    paths = write_synthetic_mpd(
        slices,
        num_playlists=num_playlists,
        num_tracks=2 * num_playlists,
        slice_size=_SLICE_SIZE,
        seed=settings.train.seed,
        progress=progress,
    )

    say(f"2  Reading {len(paths)} slices")
    dataset = read_mpd(paths, progress=progress)
    say(f"   {_size(dataset)} from {dataset.info['entries']:,} entries")
    dataset = dataset.reindex(*largest_component(dataset.interactions))
    dataset.save(prepared)
    say(f"   largest connected component: {_size(dataset)}, saved to {prepared}")

    config = RunConfig(
        str(prepared.resolve()), dataset.fingerprint(), settings, split_seed=settings.train.seed
    )
    train, val, test = (part.positives.num_edges for part in split_run(config, dataset))
    say(f"3  Split: {train:,} train, {val:,} validation, {test:,} test edges")
    shape, metric = settings.model, settings.train.metric
    layers, width = shape.num_layers, shape.embedding_dim
    say(f"4  Training LightGCN, {layers} layers, d = {width}, into {run}")
    result = train_run(dataset, config, run, device=device, watch=watch, progress=progress)
    if result.ended == "interrupted":
        return None
    seconds = sum(record["seconds"] for record in result.history)
    say(
        f"   {len(result.history)} epochs in {seconds:.0f} s, best validation {metric} "
        f"{result.best_value:.4f} in epoch {result.best_epoch}"
    )

    say("5  Test set, read for the first time:")
    evaluations = evaluate_run(dataset, run, device=device)
    columns = ("roc_auc", "recall@20", "ndcg@20")
    say("   " + "".join(f"{title:>14}" for title in ("", *columns)))
    for name, evaluation in evaluations.items():
        say("   " + f"{name:>14}" + "".join(f"{evaluation[column]:>14.4f}" for column in columns))

    say("6  Recommendations (tracks already in the playlist are left out)")
    recommender = Recommender.load(run / RECOMMENDER_FILE)
    known, new = _two_playlists(dataset)
    known_id = (
        recommender.seen.user_ids[known].item() if recommender.seen.user_ids is not None else known
    )
    for_known = recommender.recommend(known_id, 5)
    say(f'   for playlist {known_id}, "{dataset.users["name"][known]}", which has')
    for item in dataset.interactions.items_of(known)[:5].tolist():
        say(f"       {recommender.item(item).label}")
    _say_tracks(say, for_known)
    five = [recommender.item(item) for item in dataset.interactions.items_of(new)[:5].tolist()]
    for_new = recommender.recommend_new([track.id for track in five], 5)
    say("   for a new playlist of five tracks")
    for track in five:
        say(f"       {track.label}")
    _say_tracks(say, for_new)
    say(
        f"Done in {time.monotonic() - began:.0f} s. The data is synthetic: figures on real "
        "playlists are lower."
    )
    again = shlex.join(["lightgcn", "recommend", str(run)])
    say(f"Next:  {again} --user {known_id}   or   {again} --items {shlex.quote(str(five[0].id))}")
    return {
        "synthetic": True,
        "folder": str(folder),
        "edges": {"train": train, "validation": val, "test": test},
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "test": {name: asdict(evaluation) for name, evaluation in evaluations.items()},
        "known_playlist": {"id": known_id, "recommended": [asdict(track) for track in for_known]},
        "new_playlist": {
            "tracks": [track.id for track in five],
            "recommended": [asdict(track) for track in for_new],
        },
        "seconds": round(time.monotonic() - began, 1),
    }


def _checked_settings(num_playlists: int, seed: int) -> Preset:
    checked_count("num_playlists", num_playlists, _LEAST_PLAYLISTS)
    # Smaller batches for few playlists, so that an epoch has about twenty steps.
    return preset(
        "fast", seed=seed, batch_size=min(PRESETS["fast"].train.batch_size or 0, 2 * num_playlists)
    )


def _claim(folder: Path, num_playlists: int) -> None:
    """Remove the files of an earlier demo in the folder, and write the marker file.

    Raises:
        ValueError: if the folder holds files and no marker, or is no folder.
    """
    marker = folder / MARKER_FILE
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; the demo needs a folder")
    if marker.is_file():
        for name in _marked_slices(marker):
            (folder / "mpd" / name).unlink(missing_ok=True)
        for name in RUN_FILES:
            (folder / "run" / name).unlink(missing_ok=True)
    elif holds_files(folder):
        raise ValueError(
            f"{folder}: holds files and is not the folder of an earlier demo; choose a new folder"
        )
    firsts = range(0, num_playlists, _SLICE_SIZE)
    names = [
        f"mpd.slice.{first}-{min(first + _SLICE_SIZE, num_playlists) - 1}.json" for first in firsts
    ]
    write_json(
        marker,
        {"made by": "lightgcn demo, which replaces the files of its own here", "slices": names},
    )


def _marked_slices(marker: Path) -> list[str]:
    content = read_json(marker)
    names = content.get("slices") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(
        isinstance(name, str) and SLICE_NAME.fullmatch(name) for name in names
    ):
        raise ValueError(f"{marker}: not what lightgcn demo wrote; choose a new folder")
    return names


def _say_tracks(say: Callable[[str], None], tracks: list[Recommendation]) -> None:
    say("     recommended:")
    for rank, track in enumerate(tracks, 1):
        say(f"     {rank} {track.label}")


def _two_playlists(dataset: Dataset) -> tuple[int, int]:
    """Return two playlists of a length near the median, to show."""
    degrees = dataset.interactions.user_degrees
    order = (degrees - degrees.median()).abs().argsort(stable=True)
    return int(order[0]), int(order[min(1, len(order) - 1)])


def _size(dataset: Dataset) -> str:
    graph = dataset.interactions
    return f"{graph.num_users:,} playlists, {graph.num_items:,} tracks, {graph.num_edges:,} edges"
