"""Images to features: lists of files, decoding, frozen backbones, a cache on disk.

Nothing here imports Avalanche.
"""

from continual_ep.features.backbones import BACKBONES, Backbone, as_backbone, backbone
from continual_ep.features.extraction import extract
from continual_ep.features.files import FileList
from continual_ep.features.options import Images
from continual_ep.features.preprocessing import Preprocessing

__all__ = [
    "BACKBONES",
    "Backbone",
    "FileList",
    "Images",
    "Preprocessing",
    "as_backbone",
    "backbone",
    "extract",
]
