"""The parts of the hook's work, reported as they end to a function that measures them."""

from collections.abc import Callable
from typing import Literal

# What has just ended:
#   outside     everything between two steps of the hook's
#   views       forward: the K views
#   heads       from there, or from the mark of a caller since, until the K gradients have arrived
#   passes      K vector-Jacobian products down to the parameters of a module
#   gramian     inner products of this rank's gradients
#   collective  the sum over the ranks, with the wait for those that are late
#   weights     the balancer
#   merge       the weighted sum
#   rest        what is left of backward
Part = Literal[
    "outside", "views", "heads", "passes", "gramian", "collective", "weights", "merge", "rest"
]

# Called with the name of a part whenever one ends; one that comes several times a step adds up.
Marks = Callable[[Part], None]
