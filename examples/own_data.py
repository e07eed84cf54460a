"""A table in, test metrics and recommendations out.

python examples/own_data.py
"""

from __future__ import annotations

import random

import lightgcn


def made_up_plays(num_plays: int = 6000) -> dict[str, list[str]]:
    """Return plays of 200 listeners in ten circles, each of which shares thirty songs.

    Any table with named columns will do: pandas, polars, pyarrow, or a dict of lists.
    """
    draw = random.Random(0)
    listeners = [draw.randrange(200) for _ in range(num_plays)]
    songs = [listener % 10 * 30 + draw.randrange(30) for listener in listeners]
    return {
        "listener": [f"listener {number}" for number in listeners],
        "song": [f"song {number}" for number in songs],
    }


def main() -> None:
    plays, people = made_up_plays(), ["listener 7", "listener 8"]

    graph = lightgcn.Interactions.from_frame(plays, user="listener", item="song")
    split = lightgcn.split_edges(graph, stratify="user")
    model = lightgcn.train(split, "fast", progress=True)  # on a GPU: device="cuda"
    print("test:", lightgcn.evaluate(model, split.test))
    recommender = lightgcn.Recommender(model, graph)
    found = recommender.recommend(people, k=3, exclude=["song 211"])
    found_for_new = recommender.recommend_new(["song 0", "song 11"], k=3)

    # Listener 7 is of the circle that shares songs 210 to 239, listener 8 of the next one.
    for person, songs in zip([*people, "somebody new"], [*found, found_for_new], strict=True):
        print(f"{person}: {', '.join(str(song.id) for song in songs)}")


if __name__ == "__main__":
    main()
