"""The top of the tree: the command line, the demo, the checks and the benchmarks; only tests import it."""
