"""What every room uses and none is about: results, files, digests, notices, progress bars, plotting."""
