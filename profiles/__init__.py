"""Device profiles that ship with rcnas_edge: TOML files, found through the entry point group `rcnas_edge.profiles`."""
