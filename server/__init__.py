"""The aggregator: receives sealed updates, never records, and never imports torch."""
