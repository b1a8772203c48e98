"""`python -m rcnas_edge` is the command line."""

from rcnas_edge.cli import main

if __name__ == "__main__":
    main()
