"""Writes the page of a run: `python -m mbrec.report RUN [against=[RUN2,RUN3]] [out=FILE.html]`."""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from mbrec.config import settings as configuration
from mbrec.config.errors import plain_errors
from mbrec.files import atomic

NAME = "report.html"
USAGE = f"""usage: python -m mbrec.report RUN [against=[RUN2,RUN3]] [out=FILE.html]

Writes one page about the run in folder RUN, finished or not: settings, data, metrics, and pictures
of losses, NE, gradient norms, task weights, cosines and more over the steps. It is one file that
needs no network, and that can be printed.
  against=[A,B]     runs on the same rows and tasks to compare its metrics with
  out=FILE.html     where to write it; default: RUN/{NAME}"""


def write(path: Path, against: Sequence[Path], out: Path) -> None:
    """Write the page of a run.

    Args:
        path: folder of the run.
        against: folders of runs to compare it with.
        out: the file.

    Raises:
        ValueError: if one of them is no run, or cannot be compared with.
        OSError: if the page cannot be written.
    """
    from mbrec.study.report import page
    from mbrec.study.report.against import baselines
    from mbrec.study.report.run import load

    run = load(path)
    text = page.render(run, baselines(run, against), _default_settings())
    # A name out of a file may hold half a character, which no encoding has.
    atomic.write_bytes(out, text.encode("utf-8", errors="replace"))


@cache
def _default_settings() -> dict[str, Any]:
    """Return the settings of the default job, as `config.yaml` has those of a run."""
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        config = configuration.parse(compose("train"))
    content: Any = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    return content


def _parse(arguments: Sequence[str]) -> tuple[Path, list[Path], Path]:
    run, *rest = arguments
    if "=" in run and not Path(run).exists():
        raise ValueError(f"expected the folder of a run first, got {run}")
    against, out = [], Path(run) / NAME
    for argument in rest:
        key, separator, value = argument.partition("=")
        if key == "against" and separator:
            names = value.removeprefix("[").removesuffix("]").split(",")
            against += [Path(name.strip()) for name in names if name.strip()]
        elif key == "out" and value.endswith(".html"):
            out = Path(value)
        else:
            raise ValueError(f"expected against=[RUN,...] or out=FILE.html, got {argument}")
    return Path(run), against, out


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    with plain_errors():
        run, against, out = _parse(arguments)
        write(run, against, out)
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
