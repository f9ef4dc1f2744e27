"""What a temperature makes of a network's probabilities: for single sentences, and over a split."""
