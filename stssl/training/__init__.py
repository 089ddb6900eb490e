"""One recipe in training: the loop, the optimizer, evaluation, the checkpoint. Knows nothing of Ray."""
