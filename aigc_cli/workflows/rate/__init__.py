"""`aigc rate`: what to ask, what was answered, and what the answers say."""
