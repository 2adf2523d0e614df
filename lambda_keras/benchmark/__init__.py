"""Measurements, each with what it takes to place its figures."""
