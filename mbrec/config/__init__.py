"""The settings of a run: their schema, how a command line becomes them, and how they are saved."""
