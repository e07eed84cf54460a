"""A data frame in, recommendations out: twenty lines for a table of one's own.

python examples/own_data.py
"""

from __future__ import annotations

import numpy as np
import pandas as pd

import lightgcn
from lightgcn import Interactions, Recommender


def made_up_plays(num_plays: int = 6000) -> pd.DataFrame:
    """Return plays of 200 listeners in ten circles, each of which shares thirty songs."""
    rng = np.random.default_rng(0)
    listener = rng.integers(0, 200, num_plays)
    song = listener % 10 * 30 + rng.integers(0, 30, num_plays)
    return pd.DataFrame(
        {"listener": [f"listener {n}" for n in listener], "song": [f"song {n}" for n in song]}
    )


def main() -> None:
    plays = made_up_plays()
    graph = Interactions.from_frame(plays, user="listener", item="song")
    split = lightgcn.split_edges(graph, (0.8, 0.1, 0.1), disjoint=0.0, stratify="user")
    config = lightgcn.preset("fast", embedding_dim=32, batch_size=256, epochs=10)
    model = config.new_model(split.val.message)
    lightgcn.fit(model, split, config, progress=True)

    adjacency = lightgcn.normalized_adjacency(split.test.message, config.model.normalization)
    print(
        "test:",
        lightgcn.evaluate(model, split.test),
    )

    recommender = Recommender.from_model(model, graph, config.model.normalization)
    print("for listener 7, whose circle shares songs 210 to 239:")
    for song in recommender.recommend("listener 7", k=3):
        print(f"  {song.id}")
    print("for somebody new who likes songs 0 and 11:")
    for song in recommender.recommend_new(["song 0", "song 11"], k=3):
        print(f"  {song.id}")


if __name__ == "__main__":
    main()
