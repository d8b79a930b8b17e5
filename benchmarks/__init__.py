"""What a 20 ms frame costs here, and what it costs in the servers people would pick instead.

``python -m benchmarks`` measures and writes RESULTS.md; ``--quick`` prints ratios in half a
minute. Linux only: the CPU time comes from the scheduler's own accounting in ``/proc``.
"""
