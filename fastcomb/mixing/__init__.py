"""Mixtures: the networks at the ends, and the virtual networks between them."""
