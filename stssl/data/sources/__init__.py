"""One module a data set as it lies on disk. The only room below `search` that may import rasterio."""
