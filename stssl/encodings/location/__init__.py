"""Location encodings: latitude and longitude to features. A new file here is a new encoding."""
