"""Files on disk: whole or not there, one owner at a time, never unpickled."""
