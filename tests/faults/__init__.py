"""Faults: full and failing disks, frozen disks, signals, several processes in one directory."""
