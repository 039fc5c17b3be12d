"""A training command line, composed once a start: one job or a sweep, and its way to the ranks.

The process that starts a job composes, and writes a file of JSON that lasts as long as itself; the
job's processes read it. One that was started without it composes by itself.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mbrec.config import saved
from mbrec.config.composer import Composed
from mbrec.files import sealed
from mbrec.job.check import check
from mbrec.study.jobs import Job
from mbrec.study.sweep import Plan, plan, without_flag

VARIABLE = "MBREC_COMPOSED"


def compose(arguments: Sequence[str]) -> Composed | Plan:
    """Return the job or the sweep that a command line describes, checked.

    Raises:
        UserError: in a few lines, what is wrong and what was probably meant.
    """
    swept = without_flag(arguments)
    return check(list(arguments)) if swept is None else plan(swept)


@contextmanager
def handed_over(arguments: Sequence[str], found: Composed | Plan) -> Iterator[Mapping[str, str]]:
    """Write what a command line was composed to; yield the variables by which others find it."""
    configs = found.configs if isinstance(found, Plan) else [found.config]
    content = {
        "arguments": list(arguments),
        "hydra": OmegaConf.to_container(found.hydra, enum_to_str=True),
        "configs": [saved.plain(config) for config in configs],
    }
    if isinstance(found, Plan):
        content["jobs"] = [asdict(job) for job in found.jobs]
    else:
        content["overrides"] = found.overrides
    with tempfile.TemporaryDirectory(prefix="mbrec-") as folder:
        path = Path(folder) / "composed.json"
        sealed.write_json(path, content)
        yield {VARIABLE: str(path)}


def taken_over(arguments: Sequence[str]) -> Composed | Plan:
    """Return the job or the sweep of a command line that another process has composed.

    Where none has, it is composed here.

    Raises:
        UserError: if the file is not what was written; see also `compose`.
    """
    path = Path(os.environ.get(VARIABLE, ""))
    content = sealed.read_json(path) if path.is_file() else {}
    # The variable may be that of a job which this process was started by.
    if content.get("arguments") != list(arguments):
        return compose(arguments)
    configs = [saved.complete(config, [], path) for config in content["configs"]]
    hydra = DictConfig(content["hydra"])
    if "jobs" in content:
        return Plan([_job(job) for job in content["jobs"]], configs, hydra)
    return Composed(configs[0], content["overrides"], hydra)


def _job(content: Mapping[str, Any]) -> Job:
    sequences = {key: tuple(content[key]) for key in ("overrides", "only")}
    return Job(**{**content, **sequences})
