"""The loss of the best constant prediction, which a model must beat to have learned anything.

It depends on the kind of the task. Every task is binary today; its constant is the label rate, and
its loss the entropy of the labels. No torch.
"""

import math
from dataclasses import dataclass

# The log loss per row of a binary model that has learned nothing: of the logit 0.
UNTRAINED = math.log(2.0)
# Weighted sums can be so large that a rate would round to 0 or 1.
_LEAST_RATE = 1e-9


@dataclass
class BinaryConstant:
    """The label rate of the last steps, as a prediction for the next one.

    It predicts before it learns. The loss of a step is that on the step's own labels, so that a
    positive that is rare is as costly for the constant as it is for the model.

    Attributes:
        positives: weight of the positive labels, older steps faded.
        rows: weight of all labels, older steps faded.

    >>> constant = BinaryConstant()
    >>> round(constant.loss(1.0, 64.0), 3)  # nothing is known yet: the rate is 1/2
    44.361
    >>> constant.learn(1.0, 64.0, window=100)
    >>> round(constant.loss(1.0, 64.0), 3)
    5.24
    """

    positives: float = 0.0
    rows: float = 0.0

    def loss(self, positives: float, rows: float) -> float:
        """Return the constant's log loss of a step in nats, summed over its rows.

        Args:
            positives: weight of the step's positive labels.
            rows: weight of all its labels.
        """
        # Krichevsky and Trofimov's estimate; it stays away from 0 and 1.
        rate = (self.positives + 0.5) / (self.rows + 1.0)
        rate = min(max(rate, _LEAST_RATE), 1.0 - _LEAST_RATE)
        return -(positives * math.log(rate) + (rows - positives) * math.log1p(-rate))

    def learn(self, positives: float, rows: float, *, window: int) -> None:
        """Take in a step's labels.

        Args:
            positives: weight of the positive ones.
            rows: weight of all.
            window: number of steps over which older labels fade.
        """
        keep = 1.0 - 1.0 / window
        self.positives = keep * self.positives + positives
        self.rows = keep * self.rows + rows
