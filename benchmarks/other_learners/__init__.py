"""Learners that do not sleep: networks on directed graphs, and of sequences.

They learn in any Avalanche strategy, but ``continual-ep run`` does not know them.
"""
