"""Translation: sources to texts, by parallel decoders and by those that write from left to right."""
