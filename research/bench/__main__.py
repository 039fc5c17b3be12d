"""Measurements that anyone can repeat: `python -m research.bench PART [key=value ...]`."""

import importlib.util
import sys

PARTS = ("job", "data", "balance", "contest")
USAGE = """usage: torchrun ... -m research.bench job [key=value ...]
       python -m research.bench data|balance|contest [key=value ...]

  job      a training job and the hook in it, beside a bare loop
  data     the reader, its memory, the loaders of other libraries, and the job
  balance  the balancing library; needs torch alone
  contest  the loaders and the training of other libraries alone

`balance --help` lists its settings; the others take those of training."""


def contest(arguments: list[str]) -> None:
    """Print the rates of the other libraries that are installed, beside ours."""
    from mbrec.config.errors import plain_errors
    from mbrec.job.check import check

    with plain_errors():
        check(arguments)
        from hydra import compose, initialize_config_module

        from mbrec.config import settings
        from research.bench import contest, data

        with initialize_config_module("mbrec.configs", version_base="1.3"):
            config = settings.parse(compose("train", overrides=arguments))
        installed = [name for name in data.PEERS if importlib.util.find_spec(name)]
        if not installed:
            raise ValueError(f"expected one of {', '.join(data.PEERS.values())} to be installed")
        for title, speed in contest.measure(config, installed).items():
            print("\n  ".join([title, *speed.lines()]))


def main() -> None:
    """Run the measurement that the first argument names."""
    part, *arguments = sys.argv[1:] or ["--help"]
    if part in ("-h", "--help"):
        print(USAGE)
    elif part not in PARTS:
        sys.exit(f"research.bench: expected one of {', '.join(PARTS)} first, got {part}")
    elif part == "contest":
        contest(arguments)
    else:
        importlib.import_module(f"research.bench.{part}").main(arguments)


if __name__ == "__main__":
    main()
