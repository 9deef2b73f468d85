"""Methods without a trained network, for comparison with deep clustering."""
