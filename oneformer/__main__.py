"""python -m oneformer: the same program, with the other family as default."""

import sys
from collections.abc import Sequence

from mask2former import cli


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.main(arguments, family="oneformer")


if __name__ == "__main__":
    sys.exit(main())
