"""What several workflows share: rated images, folds, predictions."""
