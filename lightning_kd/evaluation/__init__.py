"""Evaluation of finished models: compression report, parity of exports, temperature probe."""
