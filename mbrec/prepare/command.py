"""Turns raw logs into the Parquet folders that training reads: `prepare RECIPE IN OUT`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbrec.prepare.recipe import Recipe, add_duplicates, add_options
from mbrec.prepare.recipes import (
    aliccp,
    aliexpress,
    census_income,
    criteo_attribution,
    csv,
    kuairand,
)
from mbrec.prepare.writer import summary

RECIPES = {
    "kuairand": kuairand.RECIPE,
    "aliccp": aliccp.RECIPE,
    "aliexpress": aliexpress.RECIPE,
    "census_income": census_income.RECIPE,
    "criteo_attribution": criteo_attribution.RECIPE,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: default: those of this process.

    Returns:
        The exit code: 2 where a file, a value or an argument is not as it should be.
    """
    options = vars(_parser().parse_args(arguments))
    name, out = options.pop("recipe"), options["out"]
    try:
        lines = csv.run(**options) if name == "csv" else _run(RECIPES[name], **options)
    except (ValueError, OSError) as error:
        print(f"prepare {name}: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    print(f"written to {out}; next: mbrec describe {out} name=NAME")
    return 0


def _run(recipe: Recipe, **options: Any) -> list[str]:
    manifest = recipe.prepare(**options)
    published = [recipe.published] if recipe.published else []
    return [summary(manifest), *recipe.report(manifest["notes"]), *published]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mbrec prepare",
        description="Turn raw logs into Parquet: OUT/train, OUT/validation, OUT/test, vocabularies "
        "of strings, and OUT/manifest.json.",
    )
    recipes = parser.add_subparsers(dest="recipe", metavar="RECIPE", required=True)
    words: Any = {"help": csv.TITLE, "description": csv.DESCRIPTION, "epilog": csv.EPILOG}
    csv.add_arguments(recipes.add_parser("csv", **words))
    for name, recipe in RECIPES.items():
        epilog = f"The files: {recipe.terms}."
        description = f"Turn into Parquet: {recipe.title}."
        one = recipes.add_parser(name, help=recipe.title, description=description, epilog=epilog)
        one.add_argument("source", metavar="IN", type=Path, help=recipe.files)
        add_options(one, recipe.write, recipe.options)
        if recipe.duplicates_help:
            add_duplicates(one, recipe.duplicates_help)
    for one in recipes.choices.values():
        one.add_argument("out", metavar="OUT", type=Path, help="folder to create")
        again = "replace OUT if it is a prepared data set"
        one.add_argument("--overwrite", action="store_true", help=again)
    return parser
