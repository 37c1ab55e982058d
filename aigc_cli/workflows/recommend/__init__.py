"""`aigc recommend`: settings by the number of images, by a look at them, or by a finished run."""
