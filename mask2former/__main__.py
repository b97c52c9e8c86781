"""python -m mask2former"""

import sys

if __name__ == "__main__":
    try:
        from mask2former.cli import main
    except KeyboardInterrupt:  # while the libraries are being read
        sys.exit(130)
    sys.exit(main())
