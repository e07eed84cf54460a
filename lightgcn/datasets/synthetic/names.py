"""Made-up names for synthetic artists, tracks and playlists."""

from __future__ import annotations

import numpy as np

ADJECTIVES = (
    "silver broken midnight golden quiet electric paper velvet distant burning hollow crooked "
    "endless scarlet "
    "frozen wandering neon gentle wild faded lonely amber restless secret second naïve "
)
NOUNS = (
    "river city heart mirror summer engine garden shadow ocean highway lantern window fever letter "
    "kingdom "
    "machine winter stranger orchard signal café satellite thunder carousel harbour déjà-vu "
)
PATTERNS = (
    "{a} {n}",
    "{n} of the {m}",
    "the {a} {n}",
    "{n} & {m}",
    "don't call it {n}",
    "{a} {n}, {a} {m}",
    '{n} ("{m}" mix)',
    "{n}",
)
GENRE_STEMS = (
    "moss drift tin velvet glow dust chrome tide ember pixel fog marble cobalt reed saffron lunar"
)
GENRE_KINDS = "wave core folk step pop funk jazz soul beat house rock bop swing hop"
MOODS = (
    "late night {}",
    "{} forever",
    "best of {}",
    "{} & chill",
    "my {} mix",
    "sunday {}",
    "{} for the road",
    "{}",
    "gym {}!!",
    "rainy day {}",
)
SYLLABLES = "ka lo mi ren tas vo zel qui bra ni do shu fen or ith lan pe rug sy mar"


def genre_names(count: int) -> list[str]:
    """Return distinct genre names."""
    base = [stem + kind for kind in GENRE_KINDS.split() for stem in GENRE_STEMS.split()]
    return [
        base[n % len(base)] + (f" {n // len(base) + 1}" if n >= len(base) else "")
        for n in range(count)
    ]


def artist_names(count: int, rng: np.random.Generator) -> list[str]:
    """Return artist names of two words made from syllables."""
    syllables = SYLLABLES.split()
    parts = rng.integers(len(syllables), size=(count, 5)).tolist()
    bands = (rng.random(count) < 0.3).tolist()
    names = []
    for (a, b, c, d, e), band in zip(parts, bands, strict=True):
        first, last = syllables[a] + syllables[b], syllables[c] + syllables[d] + syllables[e]
        names.append(f"The {last.title()}s" if band else f"{first.title()} {last.title()}")
    return names


def work_titles(count: int, rng: np.random.Generator) -> list[str]:
    """Return titles for tracks or albums; some repeat, as real ones do."""
    adjectives, nouns = ADJECTIVES.split(), NOUNS.split()
    picks = zip(
        rng.integers(len(PATTERNS), size=count).tolist(),
        rng.integers(len(adjectives), size=count).tolist(),
        rng.integers(len(nouns), size=(count, 2)).tolist(),
        strict=True,
    )
    return [
        PATTERNS[p].format(a=adjectives[a], n=nouns[n], m=nouns[m]).capitalize()
        for p, a, (n, m) in picks
    ]


def playlist_title(genre: str, mood: int) -> str:
    """Return a playlist title that contains the name of its genre."""
    return MOODS[mood % len(MOODS)].format(genre)
