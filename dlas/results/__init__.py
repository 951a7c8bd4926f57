"""What is kept: one row per measurement, and what can be said from many of them."""
