"""Checkpoints: written whole or not at all, verified before they are read, free of code.

A run keeps its checkpoints in RUN/checkpoint/step_NNNNNNNN:

    *.distcp, .metadata   tensors, in the format of torch.distributed.checkpoint
    state.json            everything else: step, position in the data, random states, plan, ...
    manifest.json         size and SHA-256 of each file above

`mbrec checkpoint ls|verify|show DIR` looks into them without loading a tensor.
"""
