"""Side nodes: groups of items, such as the tracks of an artist, as further nodes that carry
messages.

A group joins the graph like a user with all of its items: messages flow between them, nothing is
predicted for it, and it appears in no result. An item with few users then learns from the other
items of its group: with D⁻½PD⁻½ the group's message has the weight 1/√(d_i d_g), which is largest
if the item's degree d_i is small."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightgcn.core.checks import checked_integers
from lightgcn.graph.interactions import Interactions, checked_interactions
from lightgcn.graph.links import LinkSet, Split


@dataclass(frozen=True, eq=False)
class SideNodes:
    """Groups of items that are nodes.

    Attributes:
        group_of_item: (num_items,) int64: the group of each item, -1 for none.
        num_groups: number of groups; group g is user ``num_users + g`` of an extended graph.

    Example:
        >>> side = SideNodes.of(torch.tensor([4, 4, 9, 9, -1]))
        >>> graph = Interactions([0, 1], [0, 4], num_users=2, num_items=5)
        >>> side.extend(graph)
        Interactions(4 users, 5 items, 6 edges)
    """

    group_of_item: Tensor
    num_groups: int

    @classmethod
    def of(cls, groups: Tensor) -> SideNodes:
        """Build from the group of each item.

        Groups of one item are left out: such a group would only return the item's own message.

        Args:
            groups: (num_items,) integers, such as `Dataset.groups` returns; negative: no group.

        Raises:
            ValueError: if ``groups`` are not (num_items,) integers, or no group has two items.
        """
        groups = checked_integers("groups", groups)
        grouped = groups >= 0
        distinct, place, counts = groups[grouped].unique(return_inverse=True, return_counts=True)
        numbers = torch.full_like(distinct, -1)
        several = counts > 1
        num_groups = int(several.sum())
        if not num_groups:
            raise ValueError("no group has more than one item: side nodes would carry nothing")
        numbers[several] = torch.arange(num_groups, dtype=torch.int64, device=groups.device)
        group_of_item = torch.full_like(groups, -1)
        group_of_item[grouped] = numbers[place]
        return cls(group_of_item, num_groups)

    def widen(self, graph: Interactions) -> Interactions:
        """Return the same edges over users, then groups, without user ids.

        Raises:
            ValueError: if the graph has another number of items.
        """
        graph = checked_interactions("graph", graph)
        if graph.num_items != len(self.group_of_item):
            raise ValueError(
                f"the side nodes are of {len(self.group_of_item)} items, the graph is {graph}"
            )
        return replace(graph, num_users=graph.num_users + self.num_groups, user_ids=None)

    def extend(self, graph: Interactions) -> Interactions:
        """Return the graph over users, then groups, with an edge between each group and each of its
        items.

        In a weighted graph these edges have the mean weight; in an order they come first."""
        wide = self.widen(graph)
        items = (self.group_of_item >= 0).nonzero().flatten().to(graph.device)
        users = self.group_of_item.to(graph.device)[items] + graph.num_users
        weights = order = None
        if graph.weights is not None:
            mean = float(graph.weights.double().mean()) if graph.num_edges else 1.0
            weights = graph.weights.new_full((len(items),), mean)
        if graph.order is not None:
            order = graph.order.new_full(
                (len(items),), graph.order.min().item() if graph.num_edges else 0
            )
        edges = Interactions(
            users, items, wide.num_users, wide.num_items, weights, None, wide.item_ids, order
        )
        return wide.union(edges)

    def extend_links(self, links: LinkSet) -> LinkSet:
        """Return a link set whose messages flow along the extended graph; the links stay.

        Raises:
            ValueError: if negatives are pairs of any nodes, whose numbers the groups would shift.
        """
        return links.map_messages(self.extend, self.widen)

    def extend_split(self, split: Split) -> Split:
        """Return a split of extended link sets; graphs that were one object before are one object
        after."""
        # Keyed by identity, which is unique as long as the split holds the graphs.
        extended = {id(links.message): self.extend(links.message) for links in split}
        return Split(
            *(
                links.map_messages(self.extend, self.widen, extended[id(links.message)])
                for links in split
            )
        )
