"""`python -m pipeline <verb>`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
