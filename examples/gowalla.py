"""Train on the Gowalla check-ins and report the test metrics once.

    python examples/gowalla.py DATA/gowalla [--preset fast] [--epochs 20]

The folder holds train.txt and test.txt in the LightGCN format (.xz and .gz as well). A tenth of the
train edges is held out to choose the epoch; the test set is read once, at the end."""

from __future__ import annotations

import argparse

import lightgcn
from lightgcn.datasets import read_text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--preset", default="fast", choices=list(lightgcn.training.PRESETS))
    parser.add_argument("--epochs", type=int)
    arguments = parser.parse_args()

    config = lightgcn.preset(
        arguments.preset, **({"epochs": arguments.epochs} if arguments.epochs else {})
    )
    dataset = read_text(arguments.folder)
    train = dataset.interactions
    print(train)
    if dataset.test is None:
        parser.error(f"{arguments.folder} holds no test.txt")

    split = lightgcn.split_edges(train, ratios=(0.9, 0.1), disjoint=config.train.disjoint, seed=0)
    model = config.new_model(split.val.message)
    result = lightgcn.fit(model, split, config, progress=True)
    seconds = sum(record["seconds"] for record in result.history)
    print(
        f"{len(result.history)} epochs, {seconds:.0f} s; best validation {config.train.metric}: "
        f"{result.best_value:.4f}"
    )

    test = lightgcn.link_set(train, dataset.test)
    print("test:", lightgcn.evaluate(model, test))


if __name__ == "__main__":
    main()
