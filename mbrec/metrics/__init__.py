"""Metrics of K tasks over all ranks."""
