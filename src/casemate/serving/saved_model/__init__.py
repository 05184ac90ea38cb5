"""TensorFlow SavedModels: looked at before TensorFlow sees them, then run by it."""
