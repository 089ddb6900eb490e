"""Time encodings: acquisition time to features. A new file here is a new encoding."""
