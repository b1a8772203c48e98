"""What runs on a board, as one file (`bundle.program`) that needs the standard library, numpy and a runtime alone."""
