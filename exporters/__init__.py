"""Exporters that ship with rcnas_edge, reached by entry point exactly as a third party's are."""
