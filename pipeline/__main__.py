"""`python -m pipeline <verb>`."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # of which a batch's own log line tells
        sys.exit(130)
