"""A table in, recommendations out.

python examples/own_data.py
"""

from __future__ import annotations

import random

import lightgcn


def made_up_plays(num_plays: int = 6000) -> dict[str, list[str]]:
    """Return plays of 200 listeners in ten circles, each of which shares thirty songs.

    Any table does whose columns come by name: pandas, polars, pyarrow, or a dict of lists.
    """
    draw = random.Random(0)
    listeners = [draw.randrange(200) for _ in range(num_plays)]
    songs = [listener % 10 * 30 + draw.randrange(30) for listener in listeners]
    return {
        "listener": [f"listener {number}" for number in listeners],
        "song": [f"song {number}" for number in songs],
    }


def main() -> None:
    plays = made_up_plays()

    graph = lightgcn.Interactions.from_frame(plays, user="listener", item="song")
    split = lightgcn.split_edges(graph, stratify="user")
    model = lightgcn.train(split, "fast", progress=True)  # on a GPU: device="cuda"
    print("test:", lightgcn.evaluate(model, split.test))
    recommender = lightgcn.Recommender(model, graph)

    print("for listeners 7 and 8, whose circles share songs 210 to 239 and 240 to 269:")
    for tracks in recommender.recommend(["listener 7", "listener 8"], k=3, exclude=["song 211"]):
        print(" ", *(track.id for track in tracks), sep="  ")
    print("for somebody new who likes songs 0 and 11:")
    print(" ", *(track.id for track in recommender.recommend_new(["song 0", "song 11"], k=3)))


if __name__ == "__main__":
    main()
