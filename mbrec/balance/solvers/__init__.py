"""Small solvers that run on the device, without a host read."""
