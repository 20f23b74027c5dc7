"""What could not be run, kept whole; shown, and run again when an operator says so."""
