"""The labels of Cityscapes (arXiv 1604.01685, and the table of its official scripts)."""

from __future__ import annotations

from typing import NamedTuple

VOID = 255
"""What a pixel is called that no class owns: ignored in training and in scores."""


class Label(NamedTuple):
    """A label: its id in `*_labelIds.png`, its place among the 19 classes that are scored, and the rest."""

    id: int
    name: str
    train_id: int | None  # None: neither trained nor scored
    category: str
    has_instances: bool
    color: tuple[int, int, int]


LABELS = (
    Label(0, "unlabeled", None, "void", False, (0, 0, 0)),
    Label(1, "ego vehicle", None, "void", False, (0, 0, 0)),
    Label(2, "rectification border", None, "void", False, (0, 0, 0)),
    Label(3, "out of roi", None, "void", False, (0, 0, 0)),
    Label(4, "static", None, "void", False, (0, 0, 0)),
    Label(5, "dynamic", None, "void", False, (111, 74, 0)),
    Label(6, "ground", None, "void", False, (81, 0, 81)),
    Label(7, "road", 0, "flat", False, (128, 64, 128)),
    Label(8, "sidewalk", 1, "flat", False, (244, 35, 232)),
    Label(9, "parking", None, "flat", False, (250, 170, 160)),
    Label(10, "rail track", None, "flat", False, (230, 150, 140)),
    Label(11, "building", 2, "construction", False, (70, 70, 70)),
    Label(12, "wall", 3, "construction", False, (102, 102, 156)),
    Label(13, "fence", 4, "construction", False, (190, 153, 153)),
    Label(14, "guard rail", None, "construction", False, (180, 165, 180)),
    Label(15, "bridge", None, "construction", False, (150, 100, 100)),
    Label(16, "tunnel", None, "construction", False, (150, 120, 90)),
    Label(17, "pole", 5, "object", False, (153, 153, 153)),
    Label(18, "polegroup", None, "object", False, (153, 153, 153)),
    Label(19, "traffic light", 6, "object", False, (250, 170, 30)),
    Label(20, "traffic sign", 7, "object", False, (220, 220, 0)),
    Label(21, "vegetation", 8, "nature", False, (107, 142, 35)),
    Label(22, "terrain", 9, "nature", False, (152, 251, 152)),
    Label(23, "sky", 10, "sky", False, (70, 130, 180)),
    Label(24, "person", 11, "human", True, (220, 20, 60)),
    Label(25, "rider", 12, "human", True, (255, 0, 0)),
    Label(26, "car", 13, "vehicle", True, (0, 0, 142)),
    Label(27, "truck", 14, "vehicle", True, (0, 0, 70)),
    Label(28, "bus", 15, "vehicle", True, (0, 60, 100)),
    Label(29, "caravan", None, "vehicle", True, (0, 0, 90)),
    Label(30, "trailer", None, "vehicle", True, (0, 0, 110)),
    Label(31, "train", 16, "vehicle", True, (0, 80, 100)),
    Label(32, "motorcycle", 17, "vehicle", True, (0, 0, 230)),
    Label(33, "bicycle", 18, "vehicle", True, (119, 11, 32)),
)
CLASSES = tuple(label for label in LABELS if label.train_id is not None)
"""The 19 classes in the order of their train ids."""
