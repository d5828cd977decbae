"""Differential privacy without torch: accounting, calibration, noise, sampling."""
