"""The user-item graph: interactions, their adjacency, splits, negative samples, side nodes."""
