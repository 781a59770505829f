"""Smaller networks from trained ones: blocks and channels that are hardly needed are taken out, step by step."""
