"""Pictures of what the commands print, from a real run: `nox -s screens`."""
