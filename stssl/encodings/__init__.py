"""Numbers from place and time: one file an encoding, joined by `encoder`."""
