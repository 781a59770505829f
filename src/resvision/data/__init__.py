"""Pictures in: decoding, data sets and their splits, augmentation, batches."""
