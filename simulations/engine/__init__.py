"""A whole consortium in one process: one frozen base model, cached features, the real sums and accounts."""
