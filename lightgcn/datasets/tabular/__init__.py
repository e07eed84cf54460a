"""Tables with a row for each interaction: text with separators, JSON Lines, Parquet."""

from lightgcn.datasets.tabular.reader import read_table

__all__ = ["read_table"]
