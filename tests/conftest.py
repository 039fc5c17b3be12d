"""Settings and fixtures that every test shares."""

import sys
from pathlib import Path

import pytest
import torch

# Two processes of a distributed test share two cores with the test itself.
torch.set_num_threads(1)

# Test modules import `ranks` and `jobs`, which lie beside this file.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that holds the tiny synthetic data set, as `data.path` expects it."""
    from jobs import compose

    from mbrec.data.synthetic.files import write

    folder = tmp_path_factory.mktemp("synthetic")
    settings = compose(folder).data.synthetic
    assert settings is not None
    write(settings, folder / settings.fingerprint)
    return folder
