"""Images for training and evaluation: sources, augmentation, batches."""
