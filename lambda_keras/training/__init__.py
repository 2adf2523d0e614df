"""Training: recipes, optimizer and schedule, callbacks, the run directory."""
