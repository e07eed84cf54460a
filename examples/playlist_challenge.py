"""The RecSys Challenge 2018: hold playlists out, continue them from a title or some tracks, and
score the answers.

python examples/playlist_challenge.py                          made-up playlists, half a minute
python examples/playlist_challenge.py --mpd mpd/data --playlists 10000
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import lightgcn
from lightgcn import Recommender
from lightgcn.challenge import (
    TitleIndex,
    answer_playlists,
    make_challenge,
    neighbouring_tracks,
    popular_tracks,
    score_lists,
    submission_problems,
    write_challenge_set,
    write_submission,
)
from lightgcn.datasets import Dataset, read_mpd, write_synthetic_mpd
from lightgcn.graph.side_nodes import SideNodes


def main() -> None:
    arguments = parsed()
    out = Path(arguments.out or tempfile.mkdtemp())
    dataset = read_mpd(arguments.mpd or made_up(out / "mpd"), order=True, progress=True)
    challenge = make_challenge(dataset, arguments.playlists)
    print(f"{len(challenge.playlists)} playlists held out of {dataset.interactions}")

    recommender = trained(challenge.train)
    titles = TitleIndex(challenge.train.users["name"], recommender.seen)
    answers = {
        "LightGCN": answer_playlists(recommender, challenge.playlists, titles),
        "without titles": answer_playlists(recommender, challenge.playlists),
        "item-item": neighbouring_tracks(recommender, challenge.playlists),
        "popularity": popular_tracks(recommender, challenge.playlists),
    }
    print(f"{'':<20}{'R-precision':>14}{'with artists':>14}{'NDCG':>10}{'clicks':>10}")
    for name, lists in answers.items():
        scores = score_lists(challenge.playlists, lists, challenge.holdouts, challenge.artists)
        shown = scores if name == "LightGCN" else {"all": scores["all"]}
        for task, values in shown.items():
            title = name if task == "all" else f"  {task}"
            print(
                f"{title:<20}{values.r_precision:>14.4f}{values.r_precision_artists:>14.4f}"
                f"{values.ndcg:>10.4f}{values.clicks:>10.2f}"
            )

    write_challenge_set(out / "challenge_set.json", challenge.playlists)
    write_submission(out / "submission.csv.gz", answers["LightGCN"], "us", "us@example.com")
    problems = submission_problems(answers["LightGCN"], challenge.playlists)
    print(f"{out / 'submission.csv.gz'}: {'; '.join(problems) or 'no problems'}")


def trained(dataset: Dataset) -> Recommender:
    """Train on playlists and tracks, with the artists as further nodes, and return what answers."""
    graph, artists = dataset.interactions, SideNodes.of(dataset.groups("artist_id"))
    split = artists.extend_split(lightgcn.split_edges(graph, (0.95, 0.05), negatives=0.0))
    batch_size = min(16384, max(64, graph.num_edges // 40))
    model = lightgcn.train(split, "fast", batch_size=batch_size, progress=True)
    return Recommender(model, graph, side_nodes=artists, user_columns=dataset.users)


def made_up(folder: Path) -> Path:
    write_synthetic_mpd(folder, num_playlists=3000, num_tracks=6000, mean_length=80)
    return folder


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mpd", help="folder of the dataset's slices; made-up ones where left out")
    parser.add_argument("--playlists", type=int, default=300, help="to hold out (%(default)s)")
    parser.add_argument("--out", help="folder to write (a temporary one)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
