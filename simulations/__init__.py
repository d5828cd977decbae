"""The same site and server code with many sites in one process; demo, baselines, benchmarks."""
