"""Laws of the coefficients, and the stream of random numbers that they are drawn from."""
