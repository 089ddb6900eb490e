"""From images on disk to batches and views: sources, shards, store, splits, batches, augmentation."""
