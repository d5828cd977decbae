"""Sealing, signing and certificates: what protects an update on its way."""
