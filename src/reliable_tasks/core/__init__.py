"""The protocol without I/O: keys, records, decisions, options, durations."""
