"""Frozen teachers: models, ensembles, cached logits, and checks of them."""
