"""python -m mask2former"""

import sys

from mask2former.cli import main

if __name__ == "__main__":
    sys.exit(main())
