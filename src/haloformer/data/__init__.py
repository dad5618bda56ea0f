"""From files and streams to batches: dataset files, readers of what users have, normalisation and splits."""

from haloformer.data.convert import convert
from haloformer.data.dataset import LensDataset, check_finite
from haloformer.data.dataset_writer import DatasetWriter, write_dataset
from haloformer.data.deeplense import LabelledImage, LabelledSource, write_deeplense_folder
from haloformer.data.images import find_images, read_image
from haloformer.data.inspect import figure, summarise
from haloformer.data.normalization import NORMALIZATIONS, Normalization
from haloformer.data.splits import stratified_split
from haloformer.data.stream import EndlessStream, EpochStream

__all__ = [
    "NORMALIZATIONS",
    "DatasetWriter",
    "EndlessStream",
    "EpochStream",
    "LabelledImage",
    "LabelledSource",
    "LensDataset",
    "Normalization",
    "check_finite",
    "convert",
    "figure",
    "find_images",
    "read_image",
    "stratified_split",
    "summarise",
    "write_dataset",
    "write_deeplense_folder",
]
