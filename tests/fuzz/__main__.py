"""python -m tests.fuzz --minutes 5: see README.md here."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent


def start() -> int:
    """Add the folders of the test helpers to the path, as pytest does, and run the attacks."""
    sys.path[:0] = [str(HERE.parent), str(HERE.parent / "durability"), str(HERE)]
    os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
    from run import main

    return main()


sys.exit(start())
