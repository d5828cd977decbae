"""The private step: per-unit gradients, clipped and noised. Imports torch; only client and simulations use it."""
