"""Data: text in, batches of tokens out."""
