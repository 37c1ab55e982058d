"""Pages on a local server. Imports FastAPI, which comes with the extra `web`."""
