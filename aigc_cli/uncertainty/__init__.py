"""How far a score may be off."""
