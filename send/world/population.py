"""Who lives in a world: people and their facts, drawn from a seed."""

from __future__ import annotations

from itertools import product
from random import Random

from send.world.facts import ATTRIBUTES, Fact, Group, Person
from send.world.words import FIRST_NAMES, LAST_NAMES

__all__ = ["NAMES", "draw_people", "stream"]

NAMES = tuple(f"{first} {last}" for first, last in product(FIRST_NAMES, LAST_NAMES))
"""Every name that a person may have."""


def stream(seed: int, purpose: str) -> Random:
    """Return the random numbers of one purpose: what one purpose draws does not move the others.

    Seeded by a string, hence through SHA-512: the same on every platform, whatever the hash seed.
    """
    return Random(f"send.world {seed} {purpose}")


def draw_people(seed: int, mentions: dict[Group, list[int]], withheld: float) -> tuple[Person, ...]:
    """Draw a person for every name, and each person's facts.

    Parameters
    ----------
    seed : int
    mentions : dict of list of int
        For each group, in order, the mentions of each of its people. The names that are left over
        go to the group "drill".
    withheld : float
        The share of the facts of described people that no row tells, half of them drilled.

    Returns
    -------
    tuple of Person
    """
    places = [(group, count) for group, counts in mentions.items() for count in counts]
    places += [("drill", 0)] * (len(NAMES) - len(places))
    names = stream(seed, "names").sample(NAMES, len(NAMES))
    described = [name for name, (_, count) in zip(names, places, strict=True) if count]
    untold = _withheld_facts(stream(seed, "withheld"), described, withheld)
    rng = stream(seed, "facts")
    return tuple(
        Person(
            name,
            group,
            count,
            tuple(_fact(rng, name, a, untold.get((name, a), group)) for a in ATTRIBUTES),
        )
        for name, (group, count) in zip(names, places, strict=True)
    )


def _withheld_facts(rng: Random, names: list[str], share: float) -> dict[tuple[str, str], Group]:
    facts = list(product(names, ATTRIBUTES))
    chosen = rng.sample(facts, round(share * len(facts)))
    drilled = len(chosen) // 2
    return {fact: "drill" if i < drilled else "withheld" for i, fact in enumerate(chosen)}


def _fact(rng: Random, person: str, attribute: str, group: Group) -> Fact:
    # Drawn for every group alike: what the sizes of a world are does not move anybody's facts.
    value = rng.choice(ATTRIBUTES[attribute].values)
    held_out = rng.randrange(len(ATTRIBUTES[attribute].questions))
    return Fact(person, attribute, value if group in {"known", "new"} else None, group, held_out)
