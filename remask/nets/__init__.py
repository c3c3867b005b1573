"""Nets: tokens to hidden states to logits."""
