"""One configuration makes one run, many runs make a comparison.

Submodules are imported where they are needed: the command line starts without torch.
"""
