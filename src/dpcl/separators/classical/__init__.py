"""Methods without a trained network: what deep clustering is compared with."""
