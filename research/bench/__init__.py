"""Measurements of jobs, of the reader, of the balancing library, and of other libraries."""
