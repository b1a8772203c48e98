"""An ONNX file as a differentiable torch network, so that the very artefact can be attacked white-box."""

from rcnas_edge.reimport.agreement import Agreement, agreement
from rcnas_edge.reimport.module import Reimported, reimport

__all__ = ["Agreement", "Reimported", "agreement", "reimport"]
