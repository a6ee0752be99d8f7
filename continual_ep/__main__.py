"""``python -m continual_ep``, the same as ``continual-ep``."""

from continual_ep.cli import main

main()
