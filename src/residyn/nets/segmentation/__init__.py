"""Segmentation as a job: pictures and masks in, a trained U-Net and masks of new pictures out."""

from residyn.nets.segmentation.job import Judged, Settings, evaluate, train
from residyn.nets.segmentation.pictures import Labelled, read_labelled, read_mask, read_picture
from residyn.nets.segmentation.scores import boundary_score, dice, loss
from residyn.nets.segmentation.segmenter import Form, Segmenter
from residyn.nets.segmentation.windows import predict

__all__ = [
    "Form",
    "Judged",
    "Labelled",
    "Segmenter",
    "Settings",
    "boundary_score",
    "dice",
    "evaluate",
    "loss",
    "predict",
    "read_labelled",
    "read_mask",
    "read_picture",
    "train",
]
