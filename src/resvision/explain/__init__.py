"""Why it works: short experiments whose numbers are measured anew each time."""
