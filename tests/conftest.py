"""Settings that every test shares."""

import torch

# Two processes of a distributed test share two cores with the test itself.
torch.set_num_threads(1)
