#!/usr/bin/env python3
"""Draws docs/packages.svg, the packages of mbrec and what each imports.

The picture is read off the source; `tests/test_architecture.py` fails where it is out of date.
"""

import ast
from html import escape
from pathlib import Path

from mbrec.files import atomic

ROOT = Path(__file__).parents[1]
# A package imports only those that stand before it.
PACKAGES = ("files", "balance", "columns", "config", "distributed", "metrics", "reader", "model")
PACKAGES += ("checkpoint", "training", "monitor", "prepare", "job", "study")
PICTURE = ROOT / "docs" / "packages.svg"
ROW, CELL, NAMES, TOP = 26, 26, 110, 100
WIDTH = 1180
INK, DOT, LINE = "#263238", "#1565c0", "#cfd8dc"


def imports(path: Path) -> set[str]:
    """Return the packages of mbrec that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts = [name.split(".") for name in names]
        found |= {p[1] for p in parts if p[0] == "mbrec" and len(p) > 1 and p[1] in PACKAGES}
    return found


def pairs() -> set[tuple[str, str]]:
    """Return (package, imported package) for all packages of mbrec."""
    return {
        (package, other)
        for package in PACKAGES
        for path in (ROOT / "mbrec" / package).rglob("*.py")
        for other in imports(path)
        if other != package
    }


def draw() -> str:
    """Return the picture as SVG: a row for each package, and a dot for each package it imports."""
    found, height = pairs(), TOP + ROW * len(PACKAGES) + 14
    text = f'font-family="Helvetica, Arial, sans-serif" font-size="13" fill="{INK}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {text}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    purpose_x = NAMES + CELL * len(PACKAGES) + 14
    for column, name in enumerate(PACKAGES):
        x = NAMES + CELL * column + CELL // 2
        parts.append(f'<text transform="translate({x + 4} {TOP - 8}) rotate(-60)">{name}</text>')
    for row, name in enumerate(PACKAGES):
        y = TOP + ROW * row
        parts.append(f'<path d="M8 {y}H{WIDTH - 8}" stroke="{LINE}"/>')
        parts.append(f'<text x="12" y="{y + 18}" font-weight="bold">{name}</text>')
        parts.append(f'<text x="{purpose_x}" y="{y + 18}">{escape(purpose(name))}</text>')
        for column, other in enumerate(PACKAGES[: row + 1]):
            x = NAMES + CELL * column + CELL // 2
            if other == name:
                parts.append(
                    f'<rect x="{x - 5}" y="{y + 8}" width="10" height="10" fill="{LINE}"/>'
                )
            elif (name, other) in found:
                parts.append(f'<circle cx="{x}" cy="{y + 13}" r="5" fill="{DOT}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def purpose(package: str) -> str:
    """Return the first line of what a package says of itself."""
    text = ast.get_docstring(ast.parse((ROOT / "mbrec" / package / "__init__.py").read_text()))
    return (text or "").splitlines()[0]


def main() -> None:
    """Write the picture."""
    atomic.write_text(PICTURE, draw())


if __name__ == "__main__":
    main()
