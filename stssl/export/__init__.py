"""What a user takes away: the best recipe, and a student that timm loads."""
