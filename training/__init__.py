"""Training: data sets, augmentation, targets, losses, the loop and its checkpoints."""
