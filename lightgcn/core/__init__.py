"""What every part may use: files, locks, checks, seeds, sorting, memory, process groups. No
domain."""
