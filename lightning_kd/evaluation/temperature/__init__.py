"""The temperature probe: effect of temperatures on single sentences and over a split."""
