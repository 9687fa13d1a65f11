"""Data sets: annotation files and generated worlds, as clips with captions."""
