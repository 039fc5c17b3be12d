"""Measurements that anyone can repeat: `python -m mbrec.bench [balance] [key=value ...]`."""
