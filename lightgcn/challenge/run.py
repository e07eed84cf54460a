"""The challenge in one call: hold playlists out, train on the others, answer, score with baselines.

challenge.json       the data and the draw of playlists
challenge_set.json   the tasks, in the official format
holdouts.json        the held-out tracks
train/               the data without those playlists
run/                 the run that was trained on it
submission.csv       the answers
scores.json          the scores of the answers and of the baselines
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lightgcn.challenge.answers import BASELINES, answer_playlists
from lightgcn.challenge.files import write_challenge_set, write_holdouts, write_submission
from lightgcn.challenge.scores import ChallengeScores, score_lists
from lightgcn.challenge.tasks import Challenge, make_challenge
from lightgcn.challenge.title_index import TitleIndex, require_scikit_learn
from lightgcn.core.checks import checked_count
from lightgcn.core.lock import folder_lock, holds_files
from lightgcn.core.storage import read_json, write_json
from lightgcn.datasets import Dataset
from lightgcn.experiments.finished import newer_training
from lightgcn.experiments.run import CONFIG_FILE, RECOMMENDER_FILE, RunConfig, run_side_nodes
from lightgcn.experiments.train import train_run
from lightgcn.recommender import Recommender
from lightgcn.training.config import Preset

ABOUT_FILE, SET_FILE, HOLDOUTS_FILE = "challenge.json", "challenge_set.json", "holdouts.json"
TRAIN_FOLDER, RUN_FOLDER, SUBMISSION_FILE, SCORES_FILE = (
    "train",
    "run",
    "submission.csv",
    "scores.json",
)
# The held-out playlists are the test; the validation edges only choose the epoch.
_RATIOS = (0.95, 0.05)


@dataclass(frozen=True)
class ChallengeResult:
    """The scores of a challenge.

    Attributes:
        scores: by method ("lightgcn", "lightgcn without titles", "popularity", "item_item"), then
            by task, and for "all".
        unknown_holdouts: share of the held-out tracks that are in no train playlist and so cannot
            be found.

    Example:
        >>> scores = ChallengeScores(2, 0.2, None, 0.3, 1.5, 0.3, 0.4)
        >>> result = ChallengeResult({"lightgcn": {"all": scores}}, unknown_holdouts=0.01)
        >>> result.scores["lightgcn"]["all"].r_precision
        0.2
    """

    scores: dict[str, dict[str, ChallengeScores]]
    unknown_holdouts: float


def run_challenge(
    dataset: Dataset,
    settings: Preset,
    folder: str | Path,
    *,
    num_playlists: int = 10_000,
    seed: int = 0,
    side_nodes: str | None = None,
    words: str | None = None,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda _: None,
    watch: AbstractContextManager[Callable[[], bool]] | None = None,
    progress: bool = False,
) -> ChallengeResult | None:
    """Hold playlists out for the ten tasks, train on the others, answer and score.

    If ``folder`` holds the same challenge, it is continued; ``epochs`` and ``patience`` may change,
    as for any resumed run.

    Args:
        dataset: as for `make_challenge`.
        settings: of the model, its training and its ranking.
        folder: the folder of all files.
        num_playlists: number of playlists to hold out, a multiple of ten.
        seed: of the draw of playlists.
        side_nodes: as for `lightgcn.experiments.run.RunConfig`.
        words: as for `lightgcn.experiments.run.RunConfig`.
        device: device to train and answer on.
        say: called with each line of progress.
        watch: as for `train_run`; if its ``should_stop`` returns True, training ends and the result
            is None.
        progress: show progress bars on a terminal.

    Raises:
        ValueError: as `make_challenge` and `train_run` do, if the folder holds a different
            challenge, or if scikit-learn is missing.

    Example:
        >>> import lightgcn
        >>> from lightgcn.datasets import read_mpd, write_synthetic_mpd
        >>> files = write_synthetic_mpd("slices", num_playlists=300, num_tracks=3000)
        >>> dataset = read_mpd("slices", order=True)
        >>> settings = lightgcn.preset("fast", epochs=1, embedding_dim=8, batch_size=512)
        >>> result = run_challenge(dataset, settings, "challenge", num_playlists=10)
        >>> sorted(result.scores)
        ['item_item', 'lightgcn', 'lightgcn without titles', 'popularity']
    """
    require_scikit_learn()  # fail now rather than after training
    if not settings.model.num_layers:
        raise ValueError(
            "num_layers must be at least 1: a model without layers cannot fold in a playlist"
        )
    folder, seed = Path(folder), checked_count("seed", seed)
    if seed >= 2**63:
        raise ValueError(f"seed must be below 2**63, got {seed}")
    with folder_lock(folder):
        challenge = make_challenge(dataset, num_playlists, seed=seed)
        about = {"num_playlists": num_playlists, "seed": seed, "playlists": _digest(challenge)}
        _check_folder(folder, about)
        config = RunConfig(
            str((folder / TRAIN_FOLDER).resolve()),
            challenge.train.fingerprint(),
            settings,
            _RATIOS,
            words=words,
            side_nodes=side_nodes,
        )
        return _run(challenge, config, about, folder, device, say, watch, progress)


def _run(
    challenge: Challenge,
    config: RunConfig,
    about: dict[str, Any],
    folder: Path,
    device: torch.device | str,
    say: Callable[[str], None],
    watch: AbstractContextManager[Callable[[], bool]] | None,
    progress: bool,
) -> ChallengeResult | None:
    """Train, answer and score, in a locked folder."""
    train, run = challenge.train, folder / RUN_FOLDER
    run_side_nodes(config, train)  # raises for a missing column before anything is written
    begun, done = (run / CONFIG_FILE).is_file(), False
    if begun:
        saved = RunConfig.load(run)
        config.check_resumes(saved)
        done = (
            saved.settings == config.settings
            and (run / RECOMMENDER_FILE).is_file()
            and newer_training(run) is None
        )
    write_json(folder / ABOUT_FILE, about)  # first, because it marks the folder as a challenge
    write_challenge_set(folder / SET_FILE, challenge.playlists)
    write_holdouts(folder / HOLDOUTS_FILE, challenge)
    train.save(folder / TRAIN_FOLDER)
    graph = train.interactions
    say(
        f"{len(challenge.playlists):,} playlists held out, {graph.num_users:,} to train on with "
        f"{graph.num_items:,} tracks and {graph.num_edges:,} edges"
    )
    if not done:
        result = train_run(
            train, config, run, resume=begun, device=device, watch=watch, progress=progress
        )
        if result.ended == "interrupted":
            return None
        say(f"trained for {len(result.history)} epochs, the best is epoch {result.best_epoch}")

    recommender = Recommender.load(run / RECOMMENDER_FILE, device)
    titles = TitleIndex(recommender.user_columns["name"], recommender.seen)
    playlists = challenge.playlists
    lists = {"lightgcn": answer_playlists(recommender, playlists, titles, progress=progress)}
    lists["lightgcn without titles"] = answer_playlists(recommender, playlists, progress=progress)
    for name, baseline in BASELINES.items():
        lists[name] = baseline(recommender, playlists, progress=progress)
    write_submission(folder / SUBMISSION_FILE, lists["lightgcn"], "lightgcn", "nobody@example.com")
    scores = {
        name: score_lists(playlists, answers, challenge.holdouts, challenge.artists)
        for name, answers in lists.items()
    }
    unknown = _unknown_share(recommender, challenge.holdouts.values())
    write_json(folder / SCORES_FILE, {"scores": scores_values(scores), "unknown_holdouts": unknown})
    return ChallengeResult(scores, unknown)


def scores_values(scores: dict[str, dict[str, ChallengeScores]]) -> dict[str, Any]:
    """Return scores as JSON values."""
    return {
        name: {task: asdict(values) for task, values in by_task.items()}
        for name, by_task in scores.items()
    }


def _digest(challenge: Challenge) -> str:
    """Return a SHA-256 hex digest of the playlists, their held-out tracks and the train data."""
    digest = hashlib.sha256(challenge.train.fingerprint().encode())
    for ids in (challenge.train.interactions.user_ids, challenge.train.interactions.item_ids):
        digest.update(repr([] if ids is None else ids.tolist()).encode("utf-8", "surrogatepass"))
    for playlist in challenge.playlists:
        told = (playlist, sorted(challenge.holdouts[playlist.pid]))
        digest.update(repr(told).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _check_folder(folder: Path, about: dict[str, Any]) -> None:
    file = folder / ABOUT_FILE
    if not file.is_file():
        if holds_files(folder):
            raise ValueError(f"{folder}: holds files but no challenge; choose a new folder")
        return
    before = read_json(file)
    for name, value in about.items():
        if not isinstance(before, dict) or before.get(name) != value:
            found = before.get(name) if isinstance(before, dict) else None
            raise ValueError(
                f"{folder}: holds a different challenge: its {name} is {found!r}, not {value!r}"
            )


def _unknown_share(recommender: Recommender, holdouts: Any) -> float:
    tracks = [uri for wanted in holdouts for uri in wanted]
    return sum(uri not in recommender.item_indices for uri in tracks) / max(len(tracks), 1)
