"""Training: settings, batches, the loop, several processes, the search for settings."""
