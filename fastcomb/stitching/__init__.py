"""Stitching: the bottom of one network, a trained or computed layer, and the top of another."""
