"""Experiments that look for something: what keeps a network from doing better on pictures it has not seen."""
