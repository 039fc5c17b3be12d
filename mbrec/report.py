"""Writes the page of a run: `mbrec report RUN [against=[RUN2,RUN3]] [out=FILE.html]`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mbrec.config.errors import plain_errors

NAME = "report.html"
USAGE = f"""usage: mbrec report RUN [against=[RUN2,RUN3]] [out=FILE.html]

Writes one page about the run in folder RUN, finished or not: settings, data, metrics, and pictures
of losses, NE, gradient norms, task weights, cosines and more over the steps. It is one file that
needs no network, and that can be printed.
  against=[A,B]     runs on the same rows and tasks to compare its metrics with
  out=FILE.html     where to write it; default: RUN/{NAME}"""


def parsed(words: Sequence[str]) -> tuple[Path, list[Path], Path]:
    """Return the folder of the run, the folders to compare it with, and the file to write.

    Raises:
        ValueError: if a word is none of these.
    """
    run, *rest = words
    if "=" in run and not Path(run).exists():
        raise ValueError(f"expected the folder of a run first, got {run}")
    against, out = [], Path(run) / NAME
    for word in rest:
        key, separator, value = word.partition("=")
        if key == "against" and separator:
            names = value.removeprefix("[").removesuffix("]").split(",")
            against += [Path(name.strip()) for name in names if name.strip()]
        elif key == "out" and value.endswith(".html"):
            out = Path(value)
        else:
            raise ValueError(f"expected against=[RUN,...] or out=FILE.html, got {word}")
    return Path(run), against, out


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: of the command; None: those of this process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & set(words):
        print(USAGE)
        return
    with plain_errors():
        run, against, out = parsed(words)
        from mbrec.study.report.page import write  # torch, which --help must not wait for

        write(run, against, out)
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
