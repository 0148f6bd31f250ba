"""Compare this engine's pass with another's, and name the op where they part."""
