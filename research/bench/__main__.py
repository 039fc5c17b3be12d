"""`torchrun -m research.bench [key=value ...]` measures a job; `... data`, `... balance` its parts.

The first runs under torchrun and takes the settings of training, which `data` takes as well;
`balance` needs torch alone.
"""

import sys

PARTS = ("balance", "data", "job")


def main() -> None:
    """Run the measurement that the first argument names; without a name, that of a job."""
    named = sys.argv[1] if len(sys.argv) > 1 and "=" not in sys.argv[1] else "job"
    if named == "balance":
        from research.bench import balance

        balance.main(sys.argv[2:])
        return
    if named == "data":
        from research.bench import data

        data.main(sys.argv[2:])
        return
    if named == "job" and "job" in sys.argv[1:2]:
        del sys.argv[1]
    elif named not in PARTS and not named.startswith("-"):
        sys.exit(f"research.bench: expected one of {', '.join(PARTS)}, got {named}")
    from research.bench import job

    job.main()


if __name__ == "__main__":
    main()
