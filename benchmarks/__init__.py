"""What a 20 ms frame costs here, and what it costs in the servers people would pick instead.

``python -m benchmarks`` measures and writes RESULTS.md; ``--quick`` prints ratios in half a
minute; ``python -m benchmarks.soak`` runs for half an hour and looks for what grows or gets
lost. Linux only: the CPU time comes from the scheduler's own accounting in ``/proc``.
"""
