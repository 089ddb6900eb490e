"""stssl: search semi-supervised recipes for satellite images that carry a place and a date."""

__version__ = "0.1.0"
