"""`lightgcn challenge evaluate`, `answer`, `check` and `score`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from lightgcn.challenge.answers import answer_playlists
from lightgcn.challenge.files import (
    check_submission,
    read_challenge_set,
    read_holdouts,
    read_submission,
    submission_problems,
    write_submission,
)
from lightgcn.challenge.run import SUBMISSION_FILE, TRAIN_FOLDER, run_challenge, scores_values
from lightgcn.challenge.scores import ChallengeScores, score_lists
from lightgcn.challenge.tasks import artists_of
from lightgcn.challenge.title_index import TitleIndex
from lightgcn.cli.console import (
    BAD_INPUT,
    chosen_device,
    complain,
    interrupted,
    print_json,
    say,
    stop_on_interrupt,
)
from lightgcn.cli.options import (
    Command,
    add_names,
    add_preset,
    add_settings,
    changed_settings,
    language_model_of,
)
from lightgcn.datasets import open_dataset
from lightgcn.datasets.dataset import FILE_NAME
from lightgcn.experiments.finished import recommender_file
from lightgcn.recommender import Recommender
from lightgcn.training.config import preset

_COLUMNS = ("r_precision", "r_precision_artists", "ndcg", "clicks", "recall")
_TITLES = ("R-precision", "with artists", "NDCG", "clicks", "recall")


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="dataset folder, prepared from MPD slices with --order")
    parser.add_argument("out", help="folder to write, or to continue with the same challenge")
    parser.add_argument(
        "--playlists",
        type=int,
        default=10_000,
        help="playlists to hold out, for all ten tasks (%(default)s)",
    )
    parser.add_argument(
        "--draw-seed", type=int, default=0, help="seed of the draw of playlists (%(default)s)"
    )
    add_preset(parser)
    add_settings(parser)
    add_names(parser)


def _answer_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder, or a recommender.safetensors file")
    parser.add_argument("set", help="challenge set (challenge_set.json)")
    parser.add_argument("out", help="submission to write (.csv or .csv.gz)")
    parser.add_argument("--team", default="lightgcn", help="team name (%(default)s)")
    parser.add_argument(
        "--email", default="nobody@example.com", help="email address of the team (%(default)s)"
    )
    parser.add_argument("--no-titles", action="store_true", help="ignore the playlists' titles")


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("submission", help="submission (.csv or .csv.gz)")
    parser.add_argument("set", help="the challenge set that it answers")


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    _check_arguments(parser)
    parser.add_argument("holdouts", help="held-out tracks (holdouts.json of challenge evaluate)")
    parser.add_argument(
        "--data", help="dataset with the tracks' artists (train/ beside the holdouts)"
    )


def evaluate(arguments: argparse.Namespace) -> int:
    """Hold playlists out, train on the others, answer and score."""
    device = chosen_device(arguments.device)
    settings = preset(arguments.preset or "fast", **changed_settings(arguments))
    dataset = open_dataset(arguments.data, progress=not arguments.json)
    result = run_challenge(
        dataset,
        settings,
        arguments.out,
        num_playlists=arguments.playlists,
        seed=arguments.draw_seed,
        side_nodes=arguments.side_nodes,
        words=language_model_of(arguments),
        device=device,
        say=(lambda line: None) if arguments.json else say,
        watch=stop_on_interrupt(),
        progress=not arguments.json,
    )
    if result is None:
        return interrupted(arguments.out)
    if arguments.json:
        print_json(
            {"scores": scores_values(result.scores), "unknown_holdouts": result.unknown_holdouts}
        )
        return 0
    _say_table(result.scores["lightgcn"])
    say("")
    _say_table({name: by_task["all"] for name, by_task in result.scores.items()}, "all tasks")
    say(f"{result.unknown_holdouts:.1%} of the held-out tracks are in no other playlist")
    submission = Path(arguments.out) / SUBMISSION_FILE
    say(f"saved to {arguments.out}; the answers are in {submission}")
    return 0


def answer(arguments: argparse.Namespace) -> int:
    """Answer a challenge set from a run."""
    device = chosen_device(arguments.device)
    check_submission(arguments.out, arguments.team, arguments.email)
    playlists = read_challenge_set(arguments.set)
    recommender = Recommender.load(recommender_file(arguments.run), device)
    titles = None
    if not arguments.no_titles and "name" in recommender.user_columns:
        titles = TitleIndex(recommender.user_columns["name"], recommender.seen)
    lists = answer_playlists(recommender, playlists, titles, progress=not arguments.json)
    write_submission(arguments.out, lists, arguments.team, arguments.email)
    problems = submission_problems(lists, playlists)
    if arguments.json:
        print_json({"submission": arguments.out, "playlists": len(playlists), "problems": problems})
    else:
        say(f"{len(playlists):,} playlists answered, saved to {arguments.out}")
        _say_problems(problems)
    return 0


def check(arguments: argparse.Namespace) -> int:
    """List the problems for which the challenge would refuse a submission."""
    chosen_device(arguments.device)  # unused, but checked
    lists = read_submission(arguments.submission)
    problems = submission_problems(lists, read_challenge_set(arguments.set))
    if arguments.json:
        print_json({"playlists": len(lists), "problems": problems})
    else:
        _say_problems(problems)
    return BAD_INPUT if problems else 0


def score(arguments: argparse.Namespace) -> int:
    """Score a submission by task."""
    chosen_device(arguments.device)  # as above
    holdouts, artists = read_holdouts(arguments.holdouts)
    lists, playlists = read_submission(arguments.submission), read_challenge_set(arguments.set)
    data = Path(arguments.data or Path(arguments.holdouts).parent / TRAIN_FOLDER)
    known = artists_of(open_dataset(data)) if arguments.data or (data / FILE_NAME).is_file() else {}
    missing = next((playlist.pid for playlist in playlists if not holdouts.get(playlist.pid)), None)
    if missing is not None:
        raise ValueError(
            f"{arguments.holdouts}: has no tracks of playlist {missing}, which is in "
            f"{arguments.set}; are the two exchanged?"
        )
    # The artist metric needs the artists of the proposed tracks too.
    scores = score_lists(playlists, lists, holdouts, known | artists if known else None)
    for problem in submission_problems(lists, playlists):
        complain(f"note: the challenge would refuse this: {problem}")
    if arguments.json:
        print_json(scores_values({"submission": scores})["submission"])
    else:
        _say_table(scores)
    return 0


def _say_problems(problems: list[str]) -> None:
    for problem in problems:
        say(problem)
    if not problems:
        say("no problems: the challenge would accept the submission")


def _say_table(scores: Mapping[str, ChallengeScores], title: str = "task") -> None:
    width = max(len(title), *(len(name) for name in scores))
    say(f"{title:<{width}}  playlists" + "".join(f"  {column:>7}" for column in _TITLES))
    for name, values in scores.items():
        row = f"{name:<{width}}  {values.playlists:>9,}"
        for column, header in zip(_COLUMNS, _TITLES, strict=True):
            value = getattr(values, column)
            row += f"  {'-' if value is None else f'{value:.4f}':>{max(7, len(header))}}"
        say(row)


COMMANDS = {
    "challenge evaluate": Command(
        evaluate,
        _evaluate_arguments,
        "hold playlists out, train on the others, and score the ten tasks beside baselines",
        (
            "lightgcn challenge evaluate prepared challenge",
            "lightgcn challenge evaluate prepared challenge --playlists 1000 --preset best",
        ),
    ),
    "challenge answer": Command(
        answer,
        _answer_arguments,
        "answer a challenge set from a run, as a submission",
        (
            "lightgcn challenge answer runs/first challenge_set.json submission.csv.gz --team us "
            "--email us@example.com",
        ),
    ),
    "challenge check": Command(
        check,
        _check_arguments,
        "list the problems for which the challenge would refuse a submission",
        ("lightgcn challenge check submission.csv.gz challenge_set.json",),
    ),
    "challenge score": Command(
        score,
        _score_arguments,
        "score a submission by task, if the held-out tracks are known",
        (
            "lightgcn challenge score submission.csv challenge/challenge_set.json "
            "challenge/holdouts.json",
        ),
    ),
}
