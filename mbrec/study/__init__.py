"""Many runs on the same batches, and what their differences say."""
