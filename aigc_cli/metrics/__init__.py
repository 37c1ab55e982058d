"""How far predictions agree with human scores."""
