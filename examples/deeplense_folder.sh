#!/bin/sh
# From the original DeepLense folders to a report. Here the folders are simulated first; put your own in their place.
set -e
haloformer simulate model_iii --n 600 --seed 1 --format deeplense --out Model_III
haloformer simulate model_iii --n 300 --seed 2 --format deeplense --out Model_III_test
haloformer convert Model_III --out train.h5
haloformer convert Model_III_test --out test.h5
haloformer train --data train.h5 --model hybrid_nano --out runs/model_iii --epochs 5
haloformer evaluate runs/model_iii --data test.h5
