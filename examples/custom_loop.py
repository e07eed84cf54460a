"""LightGCN inside another module and another training loop: a head that mixes popularity into the
scores.

python examples/custom_loop.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lightgcn
from lightgcn import Adjacency, LightGCN
from lightgcn.datasets import synthetic_interactions


class WithPopularity(nn.Module):
    """LightGCN's score plus a learned bias per item."""

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        self.encoder = LightGCN(num_users, num_items, embedding_dim=32, num_layers=2)
        self.item_bias = nn.Parameter(torch.zeros(num_items))

    def forward(self, adjacency: Adjacency, edges: Tensor) -> Tensor:
        scores: Tensor = self.encoder(adjacency, edges)
        return scores + self.item_bias[edges[1]]


def main() -> None:
    graph = synthetic_interactions(2000, 1000, 60_000, seed=1)
    split = lightgcn.split_edges(graph, disjoint=0.2, seed=1)
    model = WithPopularity(graph.num_users, graph.num_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(30):
        links = split.train.resample(epoch)
        adjacency = lightgcn.normalized_adjacency(links.message, "symmetric")
        loss = lightgcn.bce_loss(model(adjacency, links.edges), links.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (epoch + 1) % 10 == 0:
            with torch.no_grad():
                scores = model(
                    lightgcn.normalized_adjacency(split.val.message, "symmetric"), split.val.edges
                )
            auc = lightgcn.ranking.metrics.roc_auc(scores, split.val.labels)
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}, validation ROC-AUC {auc:.4f}")


if __name__ == "__main__":
    main()
