"""From embeddings to ranked lists: scores, top-k, metrics, evaluation, baselines."""

from lightgcn.ranking.baselines import ItemScorer, ease, item_cosine, popularity
from lightgcn.ranking.choice import RankingChoice, choose_ranking
from lightgcn.ranking.columns import with_popularity_prior
from lightgcn.ranking.comparison import Difference, compare
from lightgcn.ranking.evaluation import (
    evaluate,
    evaluate_links,
    evaluate_ranking,
    evaluate_scores,
)
from lightgcn.ranking.graph_filters import cheby_cf, gf_cf
from lightgcn.ranking.groups import Group
from lightgcn.ranking.item_knn import ItemKNN, nearest_items
from lightgcn.ranking.per_user import PerUser
from lightgcn.ranking.ranker import Ranker
from lightgcn.ranking.result import Evaluation
from lightgcn.ranking.sparse_ease import ease_weights, sparse_ease
from lightgcn.ranking.topk import TopK, top_k, top_k_scores
from lightgcn.ranking.user_knn import UserKNN

__all__ = [
    "Difference",
    "Evaluation",
    "Group",
    "ItemKNN",
    "ItemScorer",
    "PerUser",
    "Ranker",
    "RankingChoice",
    "TopK",
    "UserKNN",
    "cheby_cf",
    "choose_ranking",
    "compare",
    "ease",
    "ease_weights",
    "evaluate",
    "evaluate_links",
    "evaluate_ranking",
    "evaluate_scores",
    "gf_cf",
    "item_cosine",
    "nearest_items",
    "popularity",
    "sparse_ease",
    "top_k",
    "top_k_scores",
    "with_popularity_prior",
]
