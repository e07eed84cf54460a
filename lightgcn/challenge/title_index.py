"""Playlists by title: the known titles similar to a given one, and the tracks of their playlists.

Titles are compared without case, letter width and punctuation, by tf-idf of character n-grams or by
the embeddings of a language model (`lightgcn.nn.text_features.TextEncoder`)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightgcn.core.checks import checked_count, is_number
from lightgcn.core.sorting import largest_of_rows
from lightgcn.graph.interactions import Interactions

Encode = Callable[[list[str]], Tensor]

# Titles compared at a time.
_TITLES_AT_A_TIME = 512
# Cosines computed at a time, at most.
_COSINES = 1 << 25
# Entries of playlists summed at a time, at most, unless a single title has more.
_ENTRIES = 1 << 24


def plain_title(title: str) -> str:
    """Return a title without case, punctuation and repeated spaces; emoji are kept."""
    folded = unicodedata.normalize("NFKC", title).casefold()
    # Drop joiners and colour selectors of emoji.
    joined = "".join(
        letter for letter in folded if letter != "\u200d" and not "\ufe00" <= letter <= "\ufe0f"
    )
    kept = "".join(" " if unicodedata.category(letter)[0] in "PZC" else letter for letter in joined)
    return " ".join(kept.split())


class TitleIndex:
    """Known playlists by title.

    Args:
        titles: one per user of ``interactions``; "" for none.
        interactions: the tracks of the playlists.
        encode: maps n titles to (n, f) embeddings, such as `TextEncoder.encode`; None for character
            n-grams, which need scikit-learn.
        similar: number of similar known titles to use, at most.
        least: least cosine of similar titles.

    Raises:
        ValueError: if there is not one title per user, a number is out of range, or scikit-learn is
            needed and missing.

    Example:
        >>> graph = Interactions([0, 0, 1], [0, 1, 2], num_users=2, num_items=3)
        >>> titles = TitleIndex(["Road Trip", "sleep"], graph)
        >>> titles.shares(["road trips"]).toarray()
        array([[1., 1., 0.]], dtype=float32)
    """

    def __init__(
        self,
        titles: Sequence[str],
        interactions: Interactions,
        *,
        encode: Encode | None = None,
        similar: int = 20,
        least: float = 0.3,
    ) -> None:
        if isinstance(titles, str) or len(titles) != interactions.num_users:
            raise ValueError(
                f"expected a list of a title for each of {interactions.num_users} users, got "
                f"{len(titles)}"
            )
        wrong = next((title for title in titles if not isinstance(title, str)), "")
        if wrong != "":
            raise ValueError(f'a title must be a string ("" for none), got {wrong!r}')
        if not (is_number(least) and 0 <= least <= 1):
            raise ValueError(f"least must be a cosine in [0, 1], got {least!r}")
        self.interactions, self.encode = interactions, encode
        self.similar, self.least = checked_count("similar", similar, 1), float(least)
        numbers: dict[str, int] = {}
        of_user = [
            numbers.setdefault(plain, len(numbers)) if (plain := plain_title(title)) else -1
            for title in titles
        ]
        self.distinct = list(numbers)
        self._number, self._title_of_user = numbers, np.asarray(of_user, np.int64)
        self._vectors, self._vectorizer = self._fit()

    def directions(self, titles: Sequence[str], users: Tensor) -> Tensor:
        """Return the mean embedding of the playlists with similar titles.

        Args:
            titles: B titles.
            users: (num_users, d) embeddings of the known playlists.

        Returns:
            (B, d) of the dtype and device of ``users``; zeros if no known title is similar.
        """
        weights = self._weights(titles)
        means = weights @ (self._bearers @ users.float().cpu().numpy())
        totals = (weights @ np.asarray(self._bearers.sum(axis=1)).reshape(-1, 1)).astype(np.float32)
        means = np.divide(means, totals, out=np.zeros_like(means), where=totals > 0)
        return torch.from_numpy(means).to(users.device, users.dtype)

    def shares(self, titles: Sequence[str], most: int = 2000) -> Any:
        """Return the share of the playlists with similar titles that hold each item.

        Args:
            titles: B titles; equal ones are looked up once.
            most: number of items to keep of each, with the largest shares.

        Returns:
            (B, num_items) float32 SciPy CSR array with values in (0, 1]; an empty row if no known
            title is similar.
        """
        from scipy.sparse import csr_array, vstack

        numbers: dict[str, int] = {}
        place = np.asarray(
            [numbers.setdefault(plain_title(title), len(numbers)) for title in titles], np.int64
        )
        weights, bearers = self._weights(list(numbers)), self._bearers
        held = self.interactions.to_scipy().astype(np.float32, copy=False)
        held.data[:] = 1  # a share of playlists, without weights
        parts = [csr_array((0, held.shape[1]), dtype=np.float32)]
        for first, end in self._blocks(weights):
            by_playlist = (weights[first:end] @ bearers).tocsr()
            totals = np.asarray(by_playlist.sum(axis=1)).ravel()
            by_playlist.data /= np.repeat(totals, np.diff(by_playlist.indptr)).astype(np.float32)
            parts.append(largest_of_rows((by_playlist @ held).tocsr(), most))
        return vstack(parts).tocsr()[place]

    def _weights(self, titles: Sequence[str]) -> Any:
        """Return the (B, distinct titles) weight of a playlist by its title: the cubed cosine."""
        return self._similarities(titles).power(3)

    def _blocks(self, weights: Any) -> list[tuple[int, int]]:
        """Return (first, end) of blocks of titles with a bounded number of entries."""
        entries = self._bearers @ self.interactions.user_degrees.cpu().numpy()
        up_to = np.concatenate([[0], np.cumsum(entries[weights.indices])])[weights.indptr]
        blocks, first = [], 0
        while first < weights.shape[0]:
            end = int(np.searchsorted(up_to, up_to[first] + _ENTRIES, side="right")) - 1
            blocks.append((first, max(end, first + 1)))
            first = blocks[-1][1]
        return blocks

    @cached_property
    def _bearers(self) -> Any:
        """(distinct titles, num_users) 0/1 CSR array: the playlists of each title."""
        from scipy.sparse import csr_array

        users = np.flatnonzero(self._title_of_user >= 0)
        pairs = (self._title_of_user[users], users)
        return csr_array(
            (np.ones(len(users), np.float32), pairs), (len(self.distinct), len(self._title_of_user))
        )

    def _fit(self) -> tuple[Any, Any]:
        if not self.distinct:
            return None, None
        if self.encode is not None:
            vectors = self.encode(self.distinct).float()
            # Remove the mean: embeddings of many models are dominated by a common part.
            self._mean = vectors.mean(0)
            return _unit(vectors - self._mean), None
        require_scikit_learn()
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, dtype=np.float32
        )
        return vectorizer.fit_transform(self.distinct).T.tocsr(), vectorizer

    def _similarities(self, titles: Sequence[str]) -> Any:
        """Return the (B, distinct titles) CSR array of cosines with the most similar known
        titles."""
        from scipy.sparse import csr_array, vstack

        plain = [plain_title(title) for title in titles]
        if not self.distinct or not plain:
            return csr_array((len(plain), len(self.distinct)), dtype=np.float32)
        parts = []
        step = max(1, min(_TITLES_AT_A_TIME, _COSINES // len(self.distinct)))
        for first in range(0, len(plain), step):
            block = plain[first : first + step]
            if self.encode is not None:
                cosines = csr_array(
                    _at_least(
                        _unit(self.encode(block).float() - self._mean) @ self._vectors.T, self.least
                    )
                )
            else:
                cosines = csr_array(self._vectorizer.transform(block) @ self._vectors)
                cosines.data[cosines.data < self.least] = 0
            # Nothing is similar to an empty title, and a title is similar to itself.
            some = np.array([bool(title) for title in block], np.float32)
            cosines.data *= np.repeat(some, np.diff(cosines.indptr))
            cosines.data[cosines.data > 0] = np.minimum(cosines.data[cosines.data > 0], 1)
            same = [
                (row, self._number[title])
                for row, title in enumerate(block)
                if title in self._number
            ]
            if same:
                rows, columns = np.array(same).T
                ones = csr_array(
                    (np.ones(len(same), np.float32), (rows, columns)), shape=cosines.shape
                )
                cosines = cosines.maximum(ones)
            cosines.eliminate_zeros()
            parts.append(largest_of_rows(cosines.tocsr(), self.similar))
        return vstack(parts).tocsr()


def require_scikit_learn() -> None:
    """Raise a ValueError with the install command if scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ValueError(
            'comparing titles needs scikit-learn: pip install "lightgcn[challenge]"'
        ) from error


def _unit(vectors: Tensor) -> npt.NDArray[np.float32]:
    rows = vectors.cpu().numpy()
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = np.divide(
        rows, lengths, out=np.zeros_like(rows), where=lengths > 0
    )
    return unit


def _at_least(cosines: npt.NDArray[np.float32], least: float) -> npt.NDArray[np.float32]:
    return np.where(cosines >= least, cosines, 0).astype(np.float32)
