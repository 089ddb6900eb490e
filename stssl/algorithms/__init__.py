"""What to believe about unlabeled images, and how much. A new file here is a new algorithm."""
