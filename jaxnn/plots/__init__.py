"""Pictures, drawn with matplotlib from plain arrays."""
