"""The invented words: every first name, last name, town, employer and trade a world may use.

Each name is a stem and an ending, so that it can be pronounced and is new, and the five kinds have
no word in common: a word of a generated answer always says what kind of thing was meant.
"""

from __future__ import annotations

from itertools import product

__all__ = [
    "EMPLOYERS",
    "FIRST_NAMES",
    "LAST_NAMES",
    "PROFESSIONS",
    "TOWNS",
    "YEARS",
]


def _words(stems: str, endings: str) -> tuple[str, ...]:
    return tuple(stem + ending for stem, ending in product(stems.split(), endings.split()))


FIRST_NAMES = _words(
    "Mir Tal Ser Ven Kal Lin Nor Bel Jor Fen Zel Har Ras Dor Vel Sol", "a en is io"
)
LAST_NAMES = _words(
    "Voss Kar Bran Hol Mar Tor Wes Gar Lan Pel Ost Dran Rin Stel Fal Ulm", "ner sen ley ovic"
)
TOWNS = _words("Tar Bren Vor Kos Lun Mel Dun Sil Nev Ash", "now grad mouth ford")
EMPLOYERS = tuple(
    f"{name} {kind}"
    for name, kind in product(
        _words("Cal Tol Mos Hel Rud", "dex lin var mont"), ("Mills", "Press", "Lines")
    )
)
PROFESSIONS = _words(
    "bak barb carpent danc farm garden hatt lawy mill min "
    "paint plumb port pott print roof sing tann teach weav",
    "er",
)
YEARS = tuple(str(year) for year in range(1921, 1981))
