"""What a step leaves: TensorBoard scalars, the progress bar, conflicts of the tasks."""
