"""The nouns: alphabet, canvas, conditional, sampler, objective, net, metric, and the arithmetic below them."""
