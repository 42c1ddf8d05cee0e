"""A tiny network with both heads and random weights, its manifest, and results made by hand."""

import numpy as np
from random_weights import randomize

from dettoolkit.config import recipe_to_dict
from dettoolkit.detection.result import DetectionResult
from dettoolkit.joint.result import JointResult
from dettoolkit.joint.single_tasks import join_classes
from dettoolkit.joint.spec import JointSection
from dettoolkit.manifest import Manifest
from dettoolkit.network import Network
from dettoolkit.run import Classes
from dettoolkit.segmentation.result import SegmentationResult
from dettoolkit.tasks import spec_of

OBJECTS = Classes(["car", "person"], [3, 7])
PIXELS = Classes(["road", "sky", "car", "person"], [7, 23, 26, 3])  # names and an id of both
COLORS = ((128, 64, 128), (70, 130, 180), (0, 0, 142), None)
FLAT = join_classes(OBJECTS, PIXELS)


def joint_section(detection, segmentation):
    """Return the section of a joint model of both parts' sections."""
    parts = [Classes(list(part.class_names), list(part.class_ids)) for part in (detection, segmentation)]
    flat = join_classes(*parts)
    return JointSection(
        class_names=tuple(flat.names),
        class_ids=tuple(flat.ids),
        detection=detection,
        segmentation=segmentation,
    )


def joint_model(tiny, tiny_segmentation, folder):
    """Build a network whose two heads share one backbone, and its manifest; in evaluation mode."""
    recipes = [
        tiny.load(folder).recipe,
        tiny_segmentation.load(folder, "model.backbone={tail: reduced, output_stride: 32}").recipe,
    ]
    networks, sections = [], []
    for recipe, classes in zip(recipes, (OBJECTS, PIXELS), strict=True):
        spec = spec_of(recipe)
        networks.append(spec.build_network(recipe, num_classes=len(classes.names)))
        sections.append(spec.describe(recipe, networks[-1], classes=classes))
    heads = {name: head for network in networks for name, head in network.heads.items()}
    network = randomize(Network(backbone=networks[0].backbone, heads=heads))
    manifest = Manifest(
        name="tiny_joint",
        mean=recipes[0].data.mean,
        std=recipes[0].data.std,
        input_hw=recipes[0].model.input_hw,
        recipe=recipe_to_dict(recipes[0]),
        versions={},
        tasks={"joint": joint_section(*sections)},
    )
    return network, manifest


def joint_result(image, *, boxes_xyxy, scores, labels, label_map, path=None):
    """Return the result of an image, of the classes above."""
    shared = {"path": path, "image": image}
    return JointResult(
        **shared,
        class_names=tuple(FLAT.names),
        class_ids=tuple(FLAT.ids),
        detection=DetectionResult(
            **shared,
            class_names=tuple(OBJECTS.names),
            class_ids=tuple(OBJECTS.ids),
            boxes_xyxy=np.asarray(boxes_xyxy, np.float32).reshape(-1, 4),
            scores=np.asarray(scores, np.float32),
            labels=np.asarray(labels, np.int64),
        ),
        segmentation=SegmentationResult(
            **shared,
            class_names=tuple(PIXELS.names),
            class_ids=tuple(PIXELS.ids),
            labels=np.asarray(label_map, np.uint8),
            colors=COLORS,
        ),
    )
