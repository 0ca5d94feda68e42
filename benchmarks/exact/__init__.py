"""Everything that a fleet sends wrong, a million readings of it through several workers, against a model: equal?

fleet -> send (a process of its own) -> the service        what is sent, in which order, over which stream
fleet -> model                          -> compare -> check    what must have come of it, and whether it has
"""
