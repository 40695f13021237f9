"""Draw ``docs/architecture.svg`` from the imports: each folder stands above all that it uses.

    python docs/draw_architecture.py

Arrows that follow from others are left out: from A to C where A uses B and B uses C.
"""

from __future__ import annotations

import ast
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
PICTURE = Path(__file__).parent / "architecture.svg"
PACKAGES = ("send", "specdens")


# Imports, from the sources.


class Import(NamedTuple):
    """``import module`` (name is None) or ``from module import name``."""

    module: str
    name: str | None
    early: bool  # when the file is loaded, not when a function is called


@cache
def imports(source: str) -> list[Import]:
    """Return each import of a file that is not for types only."""
    return list(_imports(ast.parse(source)))


def _imports(tree: ast.Module) -> Iterator[Import]:
    late = _inside(tree, lambda node: isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    typing = _inside(tree, lambda node: isinstance(node, ast.If) and _is_typing(node.test))
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        early = id(node) not in late
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None, early) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (Import(module, alias.name, early) for alias in node.names)


def _inside(tree: ast.Module, blocks: Callable[[Any], bool]) -> set[int]:
    """Return the ids of all nodes inside of such blocks; of an ``if``, not its ``else``."""
    return {
        id(node)
        for block in ast.walk(tree)
        if blocks(block)
        for statement in getattr(block, "body", ())
        for node in ast.walk(statement)
    }


def _is_typing(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def sources(package: str) -> dict[str, str]:
    """Return the source of each file of a package: ``operators.dense``, ``operators.__init__``."""
    folder = ROOT / package
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path.read_text()
        for path in sorted(folder.rglob("*.py"))
    }


def file_of(imported: Import, package: str, files: dict[str, str]) -> str | None:
    """Return which file of the package an import asks for, or None if it asks for another's."""
    if imported.module.split(".")[0] != package:
        return None
    inner = imported.module.split(".")[1:]
    for parts in ([*inner, imported.name or "__init__"], inner, [*inner, "__init__"]):
        if ".".join(parts) in files:
            return ".".join(parts)
        if ".".join([*parts, "__init__"]) in files:
            return ".".join([*parts, "__init__"])
    msg = f"there is no {imported.module} in {package}"
    raise ValueError(msg)


def folder_of(file: str) -> str:
    """Return the folder, or the file itself if it stands directly under the package."""
    return file.split(".")[0]


def arrows(package: str, files: dict[str, str]) -> dict[str, set[str]]:
    """Return which folders each folder imports from."""
    uses: dict[str, set[str]] = {folder_of(file): set() for file in files}
    for file, source in files.items():
        for imported in imports(source):
            target = file_of(imported, package, files)
            if target is not None and folder_of(target) != folder_of(file):
                uses[folder_of(file)].add(folder_of(target))
    return uses


# The graph, and where its boxes stand.

Edge = tuple[str, str]

WIDTH, CORRIDOR, BESIDE, BETWEEN, LINE, HEAD = 200, 12, 20, 40, 13, 25
"""Of a box, of an arrow that passes a floor, the space beside and between, lines of text."""


@dataclass
class Drawing:
    """A package: its boxes by floor, and the arrows as chains from floor to floor."""

    themes: dict[str, list[str]]  # the lines of each box
    floors: list[list[str]]  # from the ground up; "a>b@2" is where the arrow a to b passes floor 2
    chains: list[list[str]]  # from the top down
    x: dict[str, float] = field(default_factory=dict)

    def width(self, node: str) -> float:
        return WIDTH if node in self.themes else CORRIDOR

    def height(self, node: str) -> float:
        return HEAD + LINE * len(self.themes[node])

    def links(self) -> set[Edge]:
        return {link for chain in self.chains for link in pairwise(chain)}


def reduced(uses: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out the arrows that follow from others."""
    below: dict[str, set[str]] = {}
    for node in TopologicalSorter(uses).static_order():
        below[node] = uses[node].union(*(below[used] for used in uses[node]))
    return {
        node: {t for t in used if not any(t in below[other] for other in used)}
        for node, used in uses.items()
    }


def floor_of_each(uses: dict[str, set[str]]) -> dict[str, int]:
    """Return the floor of each; what uses no other stands right below the lowest of its users."""
    floor: dict[str, int] = {}
    for node in TopologicalSorter(uses).static_order():
        floor[node] = 1 + max((floor[used] for used in uses[node]), default=-1)
    for node in uses:
        users = [floor[user] for user, used in uses.items() if node in used]
        if users and not uses[node]:
            floor[node] = min(users) - 1
    return floor


def drawing(uses: dict[str, set[str]], themes: dict[str, list[str]]) -> Drawing:
    """Draw each box one floor above the highest of those that it uses."""
    floor = floor_of_each(uses)
    floors: list[list[str]] = [[] for _ in range(max(floor.values()) + 1)]
    for node in sorted(floor):
        floors[floor[node]].append(node)
    chains = []
    for top, used in sorted(reduced(uses).items()):
        for bottom in sorted(used):
            passed = range(floor[top] - 1, floor[bottom], -1)
            chains.append([top, *(f"{top}>{bottom}@{level}" for level in passed), bottom])
            for level in passed:
                floors[level].append(f"{top}>{bottom}@{level}")
    result = Drawing(themes, floors, chains)
    order(result)
    straighten(result)
    return result


def order(drawn: Drawing, sweeps: int = 60) -> None:
    """Order each floor by the mean place of the neighbours; keep what crosses least."""
    links = drawn.links()
    best, least = drawn.floors, crossings(drawn.floors, links)
    floors = [list(floor) for floor in drawn.floors]
    for sweep in range(sweeps):
        upward = sweep % 2 == 0
        levels = range(1, len(floors)) if upward else range(len(floors) - 2, -1, -1)
        for level in levels:
            fixed = floors[level - 1 if upward else level + 1]
            place = {node: i / len(fixed) for i, node in enumerate(fixed)}
            mean = means(links, place)
            wanted = {n: mean.get(n, i / len(floors[level])) for i, n in enumerate(floors[level])}
            floors[level].sort(key=wanted.__getitem__)
        count = crossings(floors, links)
        if count < least:
            best, least = [list(floor) for floor in floors], count
    drawn.floors = best


def means(links: set[Edge], place: dict[str, float]) -> dict[str, float]:
    """Return the mean place of the neighbours that have one."""
    places: dict[str, list[float]] = defaultdict(list)
    for top, bottom in sorted(links):
        weight = 4 if "@" in top and "@" in bottom else 1  # long arrows pass straight
        if bottom in place:
            places[top] += weight * [place[bottom]]
        if top in place:
            places[bottom] += weight * [place[top]]
    return {node: sum(values) / len(values) for node, values in places.items()}


def crossings(floors: list[list[str]], links: set[Edge]) -> int:
    """Count the pairs of arrows that cross, the passing of a box included."""
    place = {node: i for floor in floors for i, node in enumerate(floor)}
    level = {node: i for i, floor in enumerate(floors) for node in floor}
    between = defaultdict(list)
    for top, bottom in links:
        between[level[bottom]].append((place[top], place[bottom]))
    return sum(
        (a[0] - b[0]) * (a[1] - b[1]) < 0
        for pairs in between.values()
        for i, a in enumerate(pairs)
        for b in pairs[:i]
    )


def straighten(drawn: Drawing, sweeps: int = 80) -> None:
    """Move boxes towards their neighbours, in the order that they have."""
    links = drawn.links()
    for floor in drawn.floors:
        spread(drawn, floor, dict.fromkeys(floor, 0.0))
    for sweep in range(sweeps):
        for floor in drawn.floors if sweep % 2 == 0 else drawn.floors[::-1]:
            mean = means({k for k in links if k[0] in floor or k[1] in floor}, drawn.x)
            spread(drawn, floor, {node: mean.get(node, drawn.x[node]) for node in floor})


def spread(drawn: Drawing, floor: list[str], wanted: dict[str, float]) -> None:
    """Place a floor as near as can be to what is wanted, without overlaps: isotonic regression."""
    offsets = [0.0]
    for left, right in pairwise(floor):
        offsets.append(offsets[-1] + (drawn.width(left) + drawn.width(right)) / 2 + BESIDE)
    groups: list[list[float]] = []  # sum, count
    for node, offset in zip(floor, offsets, strict=True):
        groups.append([wanted[node] - offset, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] >= groups[-1][0] / groups[-1][1]:
            total, count = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += count
    starts = [total / count for total, count in groups for _ in range(int(count))]
    for node, start, offset in zip(floor, starts, offsets, strict=True):
        drawn.x[node] = round(start + offset)


# The picture.

STYLE = """
text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
.package { font-size: 19px; font-weight: 600; }
.name { font-size: 13px; font-weight: 600; }
.theme { font-size: 10.5px; fill: #59636e; }
.page { fill: #ffffff; }
.folder { fill: #eef4fb; stroke: #4a7ab0; }
.file { fill: #f6f8fa; stroke: #818b98; stroke-dasharray: 4 2; }
.arrow { fill: none; stroke: #6e7781; stroke-width: 1.2; }
.head { fill: #6e7781; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .theme { fill: #9da7b3; }
  .page { fill: #0d1117; }
  .folder { fill: #15263b; stroke: #5d8fc7; }
  .file { fill: #161b22; stroke: #7d8590; }
  .arrow { stroke: #8b949e; }
  .head { fill: #8b949e; }
}
"""

LEFT_OUT = {"__init__", "__main__"}
MARGIN, TITLE = 24, 34


def themes(package: str, files: dict[str, str]) -> dict[str, list[str]]:
    """Return the first line of each docstring, wrapped."""
    lines = {}
    for folder in sorted({folder_of(file) for file in files} - LEFT_OUT):
        source = files.get(folder) or files[f"{folder}.__init__"]
        first = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
        lines[folder] = textwrap.wrap(first.replace("`", "").rstrip("."), 34)
    return lines


def graph(package: str, files: dict[str, str]) -> tuple[dict[str, set[str]], dict[str, list[str]]]:
    """Return the arrows and the lines of each box; under `send` stands `specdens` as one box."""
    uses = {k: v - LEFT_OUT for k, v in arrows(package, files).items() if k not in LEFT_OUT}
    lines = themes(package, files)
    if package == "send":
        for file, source in files.items():
            used = {imported.module.split(".")[0] for imported in imports(source)}
            if folder_of(file) in uses and "specdens" in used:
                uses[folder_of(file)].add("specdens")
        uses["specdens"] = set()
        lines["specdens"] = ["Its public names, and a few inner", "ones (tests/test_layers.py)"]
    return uses, lines


def panel(package: str, top: float) -> tuple[list[str], float, float]:
    """Return the elements of a package's panel, its width and where it ends."""
    files = sources(package)
    uses, lines = graph(package, files)
    drawn = drawing(uses, lines)
    left = min(x - drawn.width(node) / 2 for node, x in drawn.x.items()) - MARGIN
    drawn.x = {node: x - left for node, x in drawn.x.items()}
    width = max(x + drawn.width(node) / 2 for node, x in drawn.x.items()) + MARGIN
    y, bottom = {}, top + TITLE + MARGIN
    tall = {}
    for floor in reversed(drawn.floors):
        height = max(drawn.height(node) for node in floor if node in lines)
        for node in floor:
            y[node] = bottom
            tall[node] = drawn.height(node) if node in lines else height
        bottom += height + BETWEEN
    folders = {folder_of(file) for file in files if "." in file} | {"specdens"}
    elements = [f'<text class="package" x="{MARGIN}" y="{top + TITLE:g}">{package}</text>']
    elements += paths(drawn, y, tall)
    for node in sorted(lines):
        elements += box(node, node in folders, lines[node], drawn.x[node], y[node])
    return elements, width, bottom - BETWEEN + MARGIN


def paths(drawn: Drawing, y: dict[str, float], tall: dict[str, float]) -> list[str]:
    """Return the arrows: straight down where they pass a floor, curved between floors."""
    ends = {}
    for side in (0, 1):
        fans = defaultdict(list)
        for top, bottom in sorted(drawn.links()):
            node, other = ((top, bottom), (bottom, top))[side]
            fans[node].append((drawn.x[other], other))
        for node, fan in fans.items():
            for i, (_, other) in enumerate(sorted(fan)):
                shift = 14 * (i - (len(fan) - 1) / 2)
                ends[(node, other, side)] = drawn.x[node] + shift
    elements = []
    for chain in drawn.chains:
        d = ""
        for i, (top, bottom) in enumerate(pairwise(chain)):
            x0, y0 = ends[(top, bottom, 0)], y[top] + tall[top]
            x1, y1 = ends[(bottom, top, 1)], y[bottom] - (2 if bottom == chain[-1] else 0)
            d += f"{'L' if i else 'M'}{x0:g} {y0:g}"
            d += f"C{x0:g} {y0 + BETWEEN / 2:g} {x1:g} {y1 - BETWEEN / 2:g} {x1:g} {y1:g}"
        elements.append(f'<path class="arrow" marker-end="url(#head)" d="{d}"/>')
    return elements


def box(node: str, is_folder: bool, lines: list[str], x: float, y: float) -> list[str]:
    """Return a box with its name and theme."""
    height = HEAD + LINE * len(lines)
    name = f"{node}/" if is_folder else f"{node}.py"
    return [
        f'<rect class="{"folder" if is_folder else "file"}" rx="6" x="{x - WIDTH / 2:g}" '
        f'y="{y:g}" width="{WIDTH}" height="{height}"/>',
        f'<text class="name" text-anchor="middle" x="{x:g}" y="{y + 17:g}">{name}</text>',
        *(
            f'<text class="theme" text-anchor="middle" x="{x:g}" y="{y + 31 + LINE * i:g}">'
            f"{escape(line)}</text>"
            for i, line in enumerate(lines)
        ),
    ]


def picture() -> str:
    """Return the whole picture: `send` above `specdens`."""
    elements, width, bottom = [], 0.0, 0.0
    for package in PACKAGES:
        more, across, bottom = panel(package, bottom)
        elements += more
        width = max(width, across)
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker>'
    )
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {bottom:g}" '
        f'width="{width:g}" height="{bottom:g}" role="img">',
        "<title>The folders of send and specdens, each above all that it imports</title>",
        f"<style>{STYLE}</style>",
        f"<defs>{head}</defs>",
        '<rect class="page" width="100%" height="100%"/>',
        *elements,
        "</svg>",
        "",
    ])


if __name__ == "__main__":
    PICTURE.write_text(picture())
