"""What values of combinations say about their law: intervals, densities, decisions; knows no sweep."""
