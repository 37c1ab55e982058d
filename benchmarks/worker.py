"""Scores sets of images, one for each line of stdin: a JSON list of paths and one of prompts. Prints how many succeed.

A script, not a module: the code that it measures comes from PYTHONPATH, which may be an older checkout.
"""

import json
import sys

from aigc_cli import Scorer


def main() -> None:
    """Scores until stdin ends."""
    scorer = Scorer.load(device="cpu")
    for line in sys.stdin:
        images, prompts = json.loads(line)
        table = scorer.score(images=images, prompts=prompts)
        print(int((table["status"] == "ok").sum()), flush=True)


if __name__ == "__main__":
    main()
