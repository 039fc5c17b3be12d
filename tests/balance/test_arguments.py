import math

import pytest

from mbrec import balance

NONSENSE = [
    ("AlignedMTL", {"scale_mode": "max"}),
    ("AlignedMTL", {"preference": [1, 1]}),
    ("CAGrad", {"c": -0.1}),
    ("CAGrad", {"rescale": 3}),
    ("CAGrad", {"output_scale": "K"}),
    ("DBMTL", {"target": "last"}),
    ("DBMTL", {"ema_decay": 1.0}),
    ("Equal", {"scale": "half"}),
    ("FAMO", {"lr": -1}),
    ("FAMO", {"weight_decay": None}),
    ("GradCraft", {"rate": 1.5}),
    ("GradCraft", {"margin": -1}),
    ("GradDrop", {"leak": [0.5]}),
    ("GradDrop", {"leak": [0.5, 2, 0]}),
    ("GradVac", {"ema_rate": 1.0}),
    ("MGDA", {"normalise": "l1"}),
    ("MoCo", {"gamma": math.nan}),
    ("MoCo", {"normalise": "l2"}),
    ("NashMTL", {"max_norm": 0}),
    ("SDMGrad", {"iterations": 0}),
    ("SDMGrad", {"iterations": 1.5}),
    ("SDMGrad", {"momentum": 1}),
    ("SDMGrad", {"prior": [0, 0, 0]}),
    ("Static", {"weights": [1, math.inf, 0]}),
    ("Static", {"weights": [1, 2]}),
    ("UPGrad", {"preference": [1, -1, 1]}),
    ("Uncertainty", {"initial": 100}),
    ("Uncertainty", {"factor": True}),
]


@pytest.mark.parametrize(("method", "arguments"), NONSENSE)
def test_nonsense_is_refused_with_what_was_expected(method, arguments):
    with pytest.raises(ValueError, match=f"expected {next(iter(arguments))} to be .*, got"):
        getattr(balance, method)(3, **arguments)


def test_a_preference_is_scaled_to_sum_to_one():
    assert balance.UPGrad(2, preference=[2, 6]).preference.tolist() == [0.25, 0.75]
