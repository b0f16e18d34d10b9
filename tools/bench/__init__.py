"""``make bench``: what steno's speed is, each figure beside its peer's in the same run.

A figure of a shared machine says little, the ratio of two that were taken in turns says more: so each measure runs
A B A B …, and what counts is the median of the rounds' ratios. The limits are the project's own (``harness.Limit``);
one that is missed is printed as missed and is no failure of the bench. One that records or replays wrong bytes is.

    python -m tools.bench                        all of it, under five minutes
    python -m tools.bench --full                 larger: 1 GB recorded, more rounds
    python -m tools.bench --only record --json   one, as JSON lines
    python -m tools.bench.append --events 100000

harness.py has rounds, limits and printing; peers.py what steno is compared with.
"""
