"""The measurements, peers beside us in the same run: `make bench`, or `python -m bench NAME`."""
