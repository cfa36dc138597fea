"""Faults: files of outside with anything in them, processes that end anywhere, disks that fill."""
