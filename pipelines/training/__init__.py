"""Models: initial ones, training, evaluation."""
