"""Published results, by split."""

from __future__ import annotations

from lightgcn.datasets import Dataset

# Users, items, train and test edges of the splits that the LightGCN authors published.
KNOWN_SPLITS = {
    (29_858, 40_981, 810_128, 217_242): "Gowalla",
    (31_668, 38_048, 1_237_259, 324_147): "Yelp2018",
    (52_643, 91_599, 2_380_730, 603_378): "Amazon-Book",
}

# Recall@20 and NDCG@20 on these splits at d = 64, from the papers or the authors' logs. Most chose
# settings and the epoch on the test set.
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "LightGCN, 1 layer (He et al. 2020)": {
        "Gowalla": (0.1755, 0.1492),
        "Yelp2018": (0.0631, 0.0515),
        "Amazon-Book": (0.0384, 0.0298),
    },
    "LightGCN, 3 layers": {
        "Gowalla": (0.1823, 0.1555),
        "Yelp2018": (0.0639, 0.0525),
        "Amazon-Book": (0.0410, 0.0318),
    },
    "LightGCN, 4 layers": {
        "Gowalla": (0.1830, 0.1550),
        "Yelp2018": (0.0649, 0.0530),
        "Amazon-Book": (0.0406, 0.0313),
    },
    "LightGCN, the authors' PyTorch code, 1000 epochs": {
        "Gowalla": (0.1824, 0.1547),
        "Yelp2018": (0.0635, 0.0524),
    },
    "LightGCN, softmax loss (code of Wu et al. 2024)": {
        "Gowalla": (0.1874, 0.1570),
        "Yelp2018": (0.0736, 0.0612),
    },
    "SimGCL (Yu et al. 2022)": {"Yelp2018": (0.0721, 0.0601)},
    "XSimGCL (Yu et al. 2023)": {"Yelp2018": (0.0723, 0.0604)},
    "EASE (Steck 2019)": {
        "Gowalla": (0.1765, 0.1467),
        "Yelp2018": (0.0657, 0.0552),
        "Amazon-Book": (0.0710, 0.0567),
    },
    "GF-CF (Shen et al. 2021)": {
        "Gowalla": (0.1849, 0.1518),
        "Yelp2018": (0.0697, 0.0571),
        "Amazon-Book": (0.0710, 0.0584),
    },
    "UltraGCN (Mao et al. 2021)": {
        "Gowalla": (0.1862, 0.1580),
        "Yelp2018": (0.0683, 0.0561),
        "Amazon-Book": (0.0681, 0.0556),
    },
    "LightGCN, BSL loss (Wu et al. 2024)": {
        "Gowalla": (0.1892, 0.1590),
        "Yelp2018": (0.0744, 0.0617),
    },
    "NESCL (Sun et al. 2023)": {"Gowalla": (0.1917, 0.1617), "Yelp2018": (0.0743, 0.0611)},
    "BSPM-EM (Choi et al. 2023)": {
        "Gowalla": (0.1920, 0.1597),
        "Yelp2018": (0.0720, 0.0593),
        "Amazon-Book": (0.0733, 0.0609),
    },
    "SANSA, sparse EASE (Spisak et al. 2023)": {"Amazon-Book": (0.0768, 0.0637)},
    "ChebyCF (Kim et al. 2025)": {
        "Gowalla": (0.1941, 0.1616),
        "Amazon-Book": (0.0738, 0.0613),
    },
}


def split_name(dataset: Dataset) -> str | None:
    """Return the name of the published split of a dataset, by its size, or None."""
    graph, test = dataset.interactions, dataset.test
    size = (
        graph.num_users,
        graph.num_items,
        graph.num_edges,
        0 if test is None else test.num_edges,
    )
    return KNOWN_SPLITS.get(size)
