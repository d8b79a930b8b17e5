"""The servers people would pick instead, each as its own manual would have it written.

All do the same work (`benchmarks.peers.work`): decode the header, leave out their own voice,
resample, hand over to a consumer task through a bounded queue.
"""
