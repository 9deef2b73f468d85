"""Audio files, sample rates, levels, STFT and features; independent of networks and sources."""
