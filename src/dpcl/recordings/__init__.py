"""Recordings longer than a network hears at once, and recordings that are not over yet."""
