"""python -m oneformer: the same program, with the other family as default."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        from mask2former import cli
    except KeyboardInterrupt:  # while the libraries are being read
        return 130
    return cli.main(arguments, family="oneformer")


if __name__ == "__main__":
    sys.exit(main())
