"""Sound as arrays: numpy and soxr only, no I/O, no clock of its own, never imports
trio; one thread, if a program asks for it (`streams`)."""
