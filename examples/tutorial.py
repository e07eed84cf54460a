"""The tutorial's path, section by section: playlists as a graph, link prediction with LightGCN,
recommendations.

    python examples/tutorial.py [FOLDER OF MPD SLICES] [--slices 0 1] [--epochs 300] [--pictures
    FOLDER]

Without a folder it makes up 2,000 playlists. The tutorial is "Neural Collaborative Filtering Using
Graph Machine Learning"; README.md says where its code and this one differ, and why."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import lightgcn
from lightgcn.datasets import read_mpd, write_synthetic_mpd
from lightgcn.graph import subgraph


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", nargs="?", help="folder of MPD slices; without one, made-up playlists"
    )
    parser.add_argument(
        "--slices", type=int, nargs=2, metavar=("FIRST", "END"), help="slices to read, by position"
    )
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--pictures", help="folder for pictures (needs the extra plot)")
    arguments = parser.parse_args()

    # 1. Playlists and tracks, an edge where a playlist has a track.
    if arguments.data:
        dataset = read_mpd(arguments.data, slices=arguments.slices and tuple(arguments.slices))
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_synthetic_mpd(folder, num_playlists=2000)
            dataset = read_mpd(folder)
    print("all playlists:", dataset.interactions)

    # 2. The largest component, in which an artist ties its tracks together, and three hops around a
    # popular playlist.
    artists = dataset.groups("artist_id")
    dataset = dataset.reindex(*subgraph.largest_component(dataset.interactions, artists))
    popular = int(subgraph.rank_users_by_popularity(dataset.interactions)[0])
    center = dataset.users["name"][popular]
    dataset = dataset.reindex(*subgraph.ego_graph(dataset.interactions, popular, hops=3))
    graph = dataset.interactions
    length = subgraph.graph_statistics(graph).user_degrees.mean
    print(f"near playlist {center!r}: {graph}, {length:.1f} tracks a playlist")

    # 3. Train, validation and test edges; of the train edges four fifths carry messages, the rest
    # are predicted.
    settings = lightgcn.preset("tutorial", epochs=arguments.epochs)
    split = lightgcn.split_edges(graph, disjoint=settings.train.disjoint)

    # 4. LightGCN: three layers of mean aggregation, averaged. The best epoch by validation AUC is
    # kept.
    model = settings.new_model(split.val.message)
    result = lightgcn.fit(model, split, settings, progress=True)
    print(f"best epoch {result.best_epoch}: validation ROC-AUC {result.best_value:.4f}")

    # 5. The test edges, looked at once: links told from non-links, and all tracks ranked for each
    # playlist.
    print("test:", lightgcn.evaluate(model, split.test, metrics=("recall", "ndcg")))

    # 6. Recommendations for a playlist, and for one that the model has never seen.
    recommender = lightgcn.Recommender(
        model, graph, user_columns=dataset.users, item_columns=dataset.items
    )
    assert graph.user_ids is not None and graph.item_ids is not None  # those of the playlists
    playlist = graph.user_ids[0]
    for title, tracks in (
        (f"for playlist {playlist}", recommender.recommend(playlist, k=5)),
        (
            "for a new playlist of its first three tracks",
            recommender.recommend_new(
                [graph.item_ids[item] for item in graph.items_of(0).tolist()[:3]], k=5
            ),
        ),
    ):
        print(title)
        for track in tracks:
            print(f"  {track.label}")

    # 7. Pictures: learning curves, a piece of the graph, a map of the tracks.
    if arguments.pictures:
        from lightgcn.experiments import plots

        pictures = Path(arguments.pictures)
        curves = plots.learning_curves(result.history, settings.train)
        plots.save_figure(curves, pictures / "curves")
        plots.save_figure(
            plots.graph_picture(graph, user="playlist", item="track"), pictures / "graph"
        )
        names, popularity = dataset.items["name"], graph.item_degrees
        directions = recommender.ranker.item_directions
        plots.save_figure(
            plots.embedding_map(directions, popularity, names, item="track"), pictures / "map"
        )


if __name__ == "__main__":
    main()
