"""Trained policies as plain arrays."""
