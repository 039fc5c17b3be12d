"""The command line: `mbrec COMMAND ...`, which is `python -m mbrec COMMAND ...`."""

import importlib
import sys

# Command -> module with its `main`, and a line for the help.
COMMANDS = {
    "train": ("mbrec.train", "train a model, or with -m a sweep of models"),
    "evaluate": ("mbrec.evaluate", "score a saved run"),
    "check": ("mbrec.check", "check a training command line without starting anything"),
    "report": ("mbrec.report", "write one page about a run"),
    "compare": ("mbrec.compare", "compare balancers on a model"),
    "prepare": ("mbrec.prepare.command", "turn a raw log into a data set"),
    "describe": ("mbrec.prepare.describe.command", "draft the configuration of a data set"),
    "synthetic": ("mbrec.prepare.synthetic.command", "write a simulated data set"),
    "checkpoint": ("mbrec.checkpoint.command", "list, verify and show checkpoints"),
    "status": ("mbrec.job.status", "print how a run stands"),
}
USAGE = "\n".join(
    [
        "usage: mbrec COMMAND [ARGUMENTS]",
        "",
        *(f"  {name:<12}{line}" for name, (_, line) in COMMANDS.items()),
        "",
        "mbrec COMMAND --help explains a command.",
    ]
)


def main() -> int:
    """Run a command; return its exit status."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name not in COMMANDS:
        print(f"error: expected one of {', '.join(COMMANDS)}, got {name}", file=sys.stderr)
        return 2
    # Imported only now: the help of one command must not wait for the imports of another.
    return importlib.import_module(COMMANDS[name][0]).main(arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
