"""Progress bars: on a terminal and in a notebook, hidden elsewhere."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Any


def progress_bar(items: Iterable[Any] | None = None, *, shown: bool, **options: Any) -> Any:
    """Return a progress bar of tqdm on stderr, which is hidden unless someone can see it move.

    Args:
        items: what to iterate over; None for a bar that is updated by hand.
        shown: False hides the bar. True shows it if stderr is a terminal or the kernel of a
            notebook.
        options: those of tqdm, such as ``total``, ``desc`` and ``unit``.

    Example:
        >>> with progress_bar(total=2, unit="user", shown=True) as bar:
        ...     _ = bar.update(2)
        >>> bar.disable  # stderr of a test is a file
        True
    """
    if shown and in_notebook():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets the bar is text
            from tqdm.auto import tqdm
        return tqdm(items, disable=False, **options)
    from tqdm import tqdm as plain

    return plain(items, disable=None if shown else True, **options)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, whose stderr is no terminal."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config
