"""Measurements that anyone can repeat: `python -m research.bench [balance] [key=value ...]`."""
