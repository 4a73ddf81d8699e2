"""What one does with a run folder after learning: take models and adapters out, check, take back, go on."""
