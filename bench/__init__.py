"""What measures the figures that we claim, each beside its reference in one run: see README.md."""
