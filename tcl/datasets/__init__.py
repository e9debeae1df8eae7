"""The eight benchmarks: what they are, how their data sets are prepared, how they are read."""
