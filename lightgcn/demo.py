"""The demonstration: synthetic playlists, walked through the path that a user's own data takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lightgcn.config import preset
from lightgcn.datasets import Dataset, read_mpd, write_synthetic_mpd
from lightgcn.recommender import Recommendation, Recommender
from lightgcn.runs import RECOMMENDER_FILE, RunConfig, evaluate_run, train_run
from lightgcn.subgraph import largest_component


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
        folder: where ``mpd/``, ``prepared/`` and ``run/`` are written; what an earlier demo left there is replaced.
        num_playlists: how many playlists to make up.
        seed: of the data, the split and the training.
        device: where to train.
        say: called with each line of the story.
        watch: entered for the time of training; when what it gives returns True, training ends and the demo
            returns None.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: if ``num_playlists`` is too small to make a graph that can be split.
    """
    folder = Path(folder)
    slices, prepared, run = folder / "mpd", folder / "prepared", folder / "run"
    began = time.monotonic()
    say(f"1  Writing {num_playlists:,} synthetic playlists as MPD slices (made-up music, no real listener) to {slices}")
    for old in (*slices.glob("mpd.slice.*.json"), *run.glob("*")):
        old.unlink()
    paths = write_synthetic_mpd(
        slices, num_playlists=num_playlists, num_tracks=2 * num_playlists, seed=seed, progress=progress
    )

    say(f"2  Reading {len(paths)} slices")
    dataset = read_mpd(slices, progress=progress)
    say(f"   {_size(dataset)} from {dataset.info['entries']:,} entries")
    dataset = dataset.reindex(*largest_component(dataset.interactions))
    dataset.save(prepared)
    say(f"   largest connected component: {_size(dataset)}, saved to {prepared}")

    settings = preset("fast", seed=seed)
    config = RunConfig(str(prepared), dataset.interactions.fingerprint(), settings, split_seed=seed)
    train, val, test = (part.positives.num_edges for part in config.split(dataset))
    say(f"3  Split: {train:,} train, {val:,} validation, {test:,} test edges")
    say(f"4  Training LightGCN, {settings.num_layers} layer, d = {settings.embedding_dim}, into {run}")
    result = train_run(dataset, config, run, device=device, watch=watch, progress=progress)
    if result.ended == "interrupted":
        return None
    seconds = sum(record["seconds"] for record in result.history)
    say(
        f"   {len(result.history)} epochs in {seconds:.0f} s, best validation {settings.metric} "
        f"{result.best_value:.4f} in epoch {result.best_epoch}"
    )

    say("5  Test set, never looked at until now:")
    evaluations = evaluate_run(dataset, run, device=device)
    columns = ("roc_auc", "recall@20", "ndcg@20")
    say("   " + "".join(f"{title:>14}" for title in ("", *columns)))
    for name, evaluation in evaluations.items():
        say("   " + f"{name:>14}" + "".join(f"{evaluation[column]:>14.4f}" for column in columns))

    say("6  Recommendations (tracks already in the playlist are left out)")
    recommender = Recommender.load(run / RECOMMENDER_FILE)
    known, new = _two_playlists(dataset)
    known_id = recommender.seen.user_ids[known].item() if recommender.seen.user_ids is not None else known
    for_known = recommender.recommend(known_id, 5)
    say(f'   for playlist {known_id}, "{dataset.users["name"][known]}", which has')
    for item in dataset.interactions.items_of(known)[:5].tolist():
        say(f"       {track_label(recommender.item(item))}")
    _say_tracks(say, for_known)
    five = [recommender.item(item) for item in dataset.interactions.items_of(new)[:5].tolist()]
    for_new = recommender.recommend_new([track.id for track in five], 5)
    say("   for a new playlist of five tracks")
    for track in five:
        say(f"       {track_label(track)}")
    _say_tracks(say, for_new)
    say(f"Done in {time.monotonic() - began:.0f} s. The data is synthetic: figures on real playlists are lower.")
    say(f'Next:  lightgcn recommend {run} --user {known_id}   or   lightgcn recommend {run} --items "{five[0].id}"')
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


def track_label(track: Recommendation) -> str:
    """Return an item as a person would write it: name and artist where they are known, else the id."""
    name, artist = track.columns.get("name"), track.columns.get("artist")
    if not name:
        return str(track.id)
    return f"{name} by {artist}" if artist else name


def _say_tracks(say: Callable[[str], None], tracks: list[Recommendation]) -> None:
    say("     recommended:")
    for rank, track in enumerate(tracks, 1):
        say(f"     {rank} {track_label(track)}")


def _two_playlists(dataset: Dataset) -> tuple[int, int]:
    """Return two playlists of a length near the median, to show."""
    degrees = dataset.interactions.user_degrees
    order = (degrees - degrees.median()).abs().argsort(stable=True)
    return int(order[0]), int(order[min(1, len(order) - 1)])


def _size(dataset: Dataset) -> str:
    graph = dataset.interactions
    return f"{graph.num_users:,} playlists, {graph.num_items:,} tracks, {graph.num_edges:,} edges"
