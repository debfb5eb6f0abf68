"""Data as users have them: read in one way (``reading``), held or streamed for sweeps (``samples``)."""
