"""The stages of a run one after the other, each from the files of the one before, and what is run beside them."""
