"""Experiments in folders: runs, reproductions, the demo, pictures, the report."""
