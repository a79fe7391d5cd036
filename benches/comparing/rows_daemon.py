"""Steps about the daemon itself, on a mount that has just begun."""

import time

from . import machine

MIB = 1 << 20


def mounted(place):
    if place.pid is None:
        return {}
    time.sleep(0.3)
    return {"mount": place.mount_seconds * 1000, "memory-idle": machine.resident_bytes(place.pid) / MIB}
