"""Networks as searches and bounds ask them: fused, frozen, replayed; never the ones that are trained."""
