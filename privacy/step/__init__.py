"""The private step: per-unit gradients, clipped and noised. Imports torch; client and simulations only."""
