"""Random meetings over the real core on a virtual clock: ``python -m tests.simulation -h``."""
