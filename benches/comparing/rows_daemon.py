"""Steps about the daemon itself, on a mount that has just begun."""

import time

from . import machine

MIB = 1 << 20


def mounted(place):
    if place.pid is None:
        return {}
    return {"mount": place.mount_seconds * 1000, "memory-idle": idle_bytes(place) / MIB}


def idle_bytes(place):
    """What the daemon holds once it has given back what it needed to begin, such as that of stretching a password."""
    time.sleep(1)
    return machine.resident_bytes(place.pid)
