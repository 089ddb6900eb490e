#!/usr/bin/env python3
"""Run stssl from a checkout: `python launch.py --help`."""

from stssl.cli.launch import main

if __name__ == "__main__":
    main()
