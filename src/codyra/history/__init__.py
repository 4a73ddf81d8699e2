"""What one takes out of a run folder: models, adapters, predictions. Reads run folders, writes elsewhere."""
