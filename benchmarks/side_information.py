"""What artists and titles are worth: rare tracks with side nodes, and playlists without tracks by
their titles.

    python -m benchmarks.side_information artists DATA [--column artist_id] [--seeds 0 1 2]
    python -m benchmarks.side_information titles DATA --words MODEL [--cold 2000]

DATA is what `lightgcn train` takes, of MPD slices. "artists" trains `fast` with and without the
tracks of an artist (or what the column says) tied by a further node, and ranks for test edges by how many playlists of the
rest hold the track. "titles" takes all tracks from some playlists, and ranks for them from their
titles alone: by a start from words (MODEL, as `lightgcn train --words` takes it), and by the mean
of the playlists whose titles are most like theirs."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from lightgcn import evaluate_ranking, fit, preset, split_edges
from lightgcn.challenge.title_index import TitleIndex
from lightgcn.datasets import Dataset, open_dataset
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import Split
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.nn.text_features import TextEncoder, word_features
from lightgcn.ranking import ItemKNN, Ranker, with_popularity_prior
from lightgcn.training.config import Preset

# Playlists that hold a track, apart from the test edges.
BANDS = ((0, None), (1, 2), (3, 5), (6, 20), (21, None))


def artists(dataset: Dataset, column: str, seeds: list[int]) -> None:
    graph, side = dataset.interactions, SideNodes.of(dataset.groups(column))
    names = [
        "all" if not low else f"{low} to {high}" if high else f"{low} and more"
        for low, high in BANDS
    ]
    print(f"{graph}\n{'seed':<6}{'':<14}" + "".join(f"{name:>26}" for name in names))
    for seed in seeds:
        plain = split_edges(graph, seed=seed, disjoint=0.0, negatives=0.0)
        for name, split in (("without", plain), ("with", side.extend_split(plain))):
            config = preset("fast", seed=seed, eval_every=8)
            message, test = split.test.message, split.test.positives
            users, items, knn = trained(split, config, message)
            held_by = plain.test.message.item_degrees[test.items]
            cells = []
            for low, high in BANDS:
                band = test.select((held_by >= low) & (held_by <= (high or graph.num_users)))
                found = evaluate_ranking(
                    users,
                    items,
                    band,
                    seen=message,
                    ks=(20, 100),
                    metrics=("recall",),
                    residual=knn,
                )
                cells.append(
                    f"{found['recall@20']:.4f} {found['recall@100']:.4f} ({band.num_edges})"
                )
            print(f"{seed:<6}{name:<14}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def titles(dataset: Dataset, model: str, num_cold: int) -> None:
    graph = dataset.interactions
    chosen = torch.randperm(graph.num_users, generator=torch.Generator().manual_seed(0))[:num_cold]
    cold = torch.zeros(graph.num_users, dtype=torch.bool)
    cold[chosen] = True
    known, hidden = graph.select(~cold[graph.users]), graph.select(cold[graph.users])
    split = split_edges(known, (0.95, 0.05), disjoint=0.0, negatives=0.0)
    encoder = TextEncoder(model, progress=True)
    words = word_features(dataset.users, dataset.items, encoder)

    def tell(name: str, users: Tensor, items: Tensor) -> None:
        print(
            f"{name:<24}{evaluate_ranking(users, items, hidden, metrics=('recall', 'ndcg'))}",
            flush=True,
        )

    degrees = known.item_degrees.float().unsqueeze(1)
    tell("popularity", degrees.new_ones(known.num_users, 1), degrees)
    for init in ("spectral", "words"):
        config = preset("fast", init=init)
        users, items, _ = trained(split, config, known, words)
        tell(f"start: {init}", users, items)
    warm = dataset.reindex((~cold).nonzero().flatten(), torch.arange(graph.num_items))
    for name, encode in (
        ("titles, pieces of words", None),
        ("titles, by the model", encoder.encode),
    ):
        index = TitleIndex(warm.users["name"], warm.interactions, encode=encode)
        asked = [dataset.users["name"][user] for user in chosen.tolist()]
        answers = torch.zeros(graph.num_users, users.shape[1] - 1)
        answers[chosen] = index.directions(asked, users[~cold][:, :-1])
        tell(name, F.pad(F.normalize(answers), (0, 1), value=1.0), items)
    tell(
        "nothing but the prior", *with_popularity_prior(0 * users, items, known.item_degrees, 0.13)
    )


def trained(
    split: Split,
    config: Preset,
    message: Interactions,
    words: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, ItemKNN | None]:
    """Return the embeddings and the item kNN that score where messages flow along ``message``."""
    model = config.new_model(split.val.message, words=words)
    fit(model, split, config, progress=True)
    ranker = Ranker.from_model(model, message)
    return ranker.users, ranker.items, ranker.item_knn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["artists", "titles"])
    parser.add_argument("data")
    parser.add_argument("--column", default="artist_id", help="of the items (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--words", help="language model: a folder, or the name of an installed one")
    parser.add_argument(
        "--cold", type=int, default=2000, help="playlists to take all tracks from (%(default)s)"
    )
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data, progress=True)
    if arguments.what == "artists":
        artists(dataset, arguments.column, arguments.seeds)
    elif arguments.words is None:
        parser.error("titles needs --words MODEL")
    else:
        titles(dataset, arguments.words, arguments.cold)


if __name__ == "__main__":
    main()
