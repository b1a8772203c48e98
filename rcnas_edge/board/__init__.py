"""What runs on a board, without this package: each module needs the standard library, numpy and a runtime alone."""
