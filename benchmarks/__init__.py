"""Benchmarks of every step that costs time: correct first, then timed beside named peers and the
measured floor.

    python -m pip install -c constraints.txt -e ".[test,bench]"
    pytest benchmarks --benchmark-json=bench.json && python -m benchmarks.report bench.json

Peers that are not installed are skipped, and named. ``--full`` adds the graph of 66 million edges.
"""
