"""`cloister bench`: the one place for figures."""
