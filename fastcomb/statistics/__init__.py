"""What values of combinations say about their law: intervals, densities, comparisons, cheaper means."""
