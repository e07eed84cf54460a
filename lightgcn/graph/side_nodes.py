"""Side nodes: groups of items, such as the tracks of an artist, as further nodes that carry
messages.

A group joins the graph as a user would who had all of its items: messages flow between it and them,
nothing is predicted for it, and it is no user of any result. An item of few users then learns from
its group's other items, in
proportion: of D⁻½PD⁻½ the group's share of what an item hears is 1/√(d_i d_g), most where the
item's degree d_i is small."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightgcn.core.checks import checked_integers
from lightgcn.graph.interactions import Interactions
from lightgcn.graph.split import LinkSet, Split


@dataclass(frozen=True, eq=False)
class SideNodes:
    """The groups of items that are nodes.

    Attributes:
        group_of_item: (num_items,) int64: the group of each item, -1 for none.
        num_groups: how many; group g is user ``num_users + g`` of an extended graph.
    """

    group_of_item: Tensor
    num_groups: int

    @classmethod
    def of(cls, groups: Tensor) -> SideNodes:
        """Take the groups of items, (num_items,) integers such as `Dataset.groups`; negative: none.

        A group of one item is left out: it would only tell the item what it said.

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
            raise ValueError(
                "no group has more than one item: there is nothing for side nodes to carry"
            )
        numbers[several] = torch.arange(num_groups, device=groups.device)
        group_of_item = torch.full_like(groups, -1)
        group_of_item[grouped] = numbers[place]
        return cls(group_of_item, num_groups)

    def widen(self, graph: Interactions) -> Interactions:
        """Return the same edges over users, then groups; the users' ids are left out.

        Raises:
            ValueError: if the graph is over another number of items.
        """
        if graph.num_items != len(self.group_of_item):
            raise ValueError(
                f"the side nodes are of {len(self.group_of_item)} items, the graph is {graph}"
            )
        return replace(graph, num_users=graph.num_users + self.num_groups, user_ids=None)

    def extend(self, graph: Interactions) -> Interactions:
        """Return the graph over users, then groups, with an edge from each group to each of its
        items.

        Of a weighted graph such an edge weighs as much as an edge does on average; in an order it
        comes first."""
        wide = self.widen(graph)
        items = (self.group_of_item >= 0).nonzero().flatten().to(graph.device)
        users = self.group_of_item.to(graph.device)[items] + graph.num_users
        weights = order = None
        if graph.weights is not None:
            mean = float(graph.weights.double().mean()) if graph.num_edges else 1.0
            weights = graph.weights.new_full((len(items),), mean)
        if graph.order is not None:
            order = graph.order.new_full(
                (len(items),), int(graph.order.min()) if graph.num_edges else 0
            )
        edges = Interactions(
            users, items, wide.num_users, wide.num_items, weights, None, wide.item_ids, order
        )
        return wide.union(edges)

    def extend_links(self, links: LinkSet) -> LinkSet:
        """Return a link set whose messages flow along the extended graph; what is predicted stays.

        Raises:
            ValueError: if negatives are pairs of any nodes, whose numbers the groups would shift.
        """
        return links.with_messages(self.extend, self.widen)

    def extend_split(self, split: Split) -> Split:
        """Return a split of extended link sets; graphs that were one object before are one object
        after."""
        # By identity, which is theirs alone for as long as the split holds them: for here and no
        # longer.
        extended = {id(links.message): self.extend(links.message) for links in split}
        return Split(
            *(
                links.with_messages(self.extend, self.widen, extended[id(links.message)])
                for links in split
            )
        )
