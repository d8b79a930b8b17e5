"""Several worker processes on one port: ``--workers N``.

The supervisor (`supervisor`) binds the port once and starts the workers (`worker`), which all
accept from it. A new meeting goes to the emptiest of them, and all know which has which
(`places`). A worker that accepts a connection of another's bot hands it over (`siblings`,
`hatch`): the descriptor, and beside it what was read already (`handover`).
"""
