"""What the command lines of `scripts/prepare_*.py` share: their ends, good and bad."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def add_duplicates(parser: argparse.ArgumentParser, default: str | None, says: str) -> None:
    """Add the option of what becomes of equal rows.

    Args:
        parser: to add to.
        default: the policy without the option; see `mbrec.prepare.duplicates`.
        says: what that is, for the help.
    """
    equal = f"rows that are equal in every column: keep all, or drop all but the first ({says})"
    parser.add_argument("--duplicates", choices=("keep", "drop"), default=default, help=equal)


def run(
    parser: argparse.ArgumentParser,
    prepare: Callable[..., Mapping[str, Any]],
    report: Callable[[Mapping[str, Any]], str],
    argv: Sequence[str] | None,
) -> int:
    """Prepare a data set as a command line says, and print what came of it.

    Args:
        parser: its arguments are those of `prepare`; one of them is `out`.
        prepare: returns the manifest.
        report: what to print of a manifest.
        argv: the arguments; default: those of this process.

    Returns:
        The exit code: 2 where a file, a value or an argument is not as it should be.
    """
    args = parser.parse_args(argv)
    try:
        manifest = prepare(**vars(args))
    except (ValueError, OSError) as error:
        print(f"{parser.prog.removesuffix('.py')}: {error}", file=sys.stderr)
        return 2
    print(f"{report(manifest)}\nwritten to {args.out}")
    return 0
