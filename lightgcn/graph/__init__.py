"""The user-item graph: interactions, their adjacency, splits, negative samples, subgraphs."""

from lightgcn.graph.adjacency import Adjacency, normalized_adjacency
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.links import LinkSet, Split, link_set
from lightgcn.graph.negatives import (
    sample_negative_items,
    sample_negative_node_pairs,
    sample_negatives,
    sample_user_positives,
    saturated_users,
    shuffled_batches,
)
from lightgcn.graph.side_nodes import SideNodes
from lightgcn.graph.split import split_edges
from lightgcn.graph.subgraph import (
    Degrees,
    GraphStatistics,
    Nodes,
    ego_graph,
    graph_statistics,
    k_core,
    largest_component,
    locality_order,
    random_users,
    rank_users_by_popularity,
)

__all__ = [
    "Adjacency",
    "Degrees",
    "GraphStatistics",
    "Interactions",
    "LinkSet",
    "Nodes",
    "SideNodes",
    "Split",
    "ego_graph",
    "graph_statistics",
    "k_core",
    "largest_component",
    "link_set",
    "locality_order",
    "normalized_adjacency",
    "random_users",
    "rank_users_by_popularity",
    "sample_negative_items",
    "sample_negative_node_pairs",
    "sample_negatives",
    "sample_user_positives",
    "saturated_users",
    "shuffled_batches",
    "split_edges",
]
