"""rcnas_edge: compress an image classifier for an edge device and verify the robustness of the very file that ships."""

__version__ = "0.1.0"
