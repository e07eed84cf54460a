"""A table that a notebook shows."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table of escaped text.

    Example:
        >>> html_table("1 user", ["metric", "value"], [["recall@20", "0.5"]])[:34]
        '<table><caption>1 user</caption><t'
    """

    def row(cells: Sequence[str], tag: str) -> str:
        shown = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        return f"<tr>{shown}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return (
        f"<table><caption>{html.escape(caption)}</caption>"
        f"<thead>{row(header, 'th')}</thead><tbody>{body}</tbody></table>"
    )
