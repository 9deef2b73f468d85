"""Recordings of any length through any separator, and streams."""
