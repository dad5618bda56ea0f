"""From files and streams to batches: dataset files, readers of what users have, normalisation and splits."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.data.conversion import convert
    from haloformer.data.dataset import LensDataset, check_finite
    from haloformer.data.dataset_writer import DatasetWriter, write_dataset
    from haloformer.data.deeplense import LabelledImage, LabelledSource, write_deeplense_folder
    from haloformer.data.finding import find_images
    from haloformer.data.fits_folder import write_fits_folder
    from haloformer.data.inspect import figure, summarise
    from haloformer.data.normalization import NORMALIZATIONS, Normalization
    from haloformer.data.splits import split_of_groups, stratified_split
    from haloformer.data.stream import EndlessStream, EpochStream
    from haloformer.readers.images import read_image

_HOMES = {
    "NORMALIZATIONS": "normalization",
    "DatasetWriter": "dataset_writer",
    "EndlessStream": "stream",
    "EpochStream": "stream",
    "LabelledImage": "deeplense",
    "LabelledSource": "deeplense",
    "LensDataset": "dataset",
    "Normalization": "normalization",
    "check_finite": "dataset",
    "convert": "conversion",
    "figure": "inspect",
    "find_images": "finding",
    "read_image": "haloformer.readers.images",
    "split_of_groups": "splits",
    "stratified_split": "splits",
    "summarise": "inspect",
    "write_dataset": "dataset_writer",
    "write_deeplense_folder": "deeplense",
    "write_fits_folder": "fits_folder",
}

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
    "split_of_groups",
    "stratified_split",
    "summarise",
    "write_dataset",
    "write_deeplense_folder",
    "write_fits_folder",
]

# On first use: the options of reading need no torch.
__getattr__, __dir__ = lazy(__name__, _HOMES)
