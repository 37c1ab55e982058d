"""One typed function per command; joins what `io` reads and writes with what `core` computes."""
