"""From what a generator wrote to a prompt."""
