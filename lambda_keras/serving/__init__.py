"""Serving: SavedModels that run where this package is not installed."""
