#!/bin/sh
# From the original DeepLense folders to a report. Here the folders are simulated first; put your own in their place.
#   sh examples/deeplense_folder.sh             seconds, to see it work
#   N=30000 EPOCHS=20 sh examples/deeplense_folder.sh
set -e
N=${N:-300}
EPOCHS=${EPOCHS:-2}
haloformer simulate model_iii --n "$N" --seed 1 --format deeplense --out Model_III
haloformer simulate model_iii --n "$N" --seed 2 --format deeplense --out Model_III_test
haloformer convert Model_III --out train.h5
haloformer convert Model_III_test --out test.h5
haloformer train --data train.h5 --model hybrid_nano --out runs/model_iii --epochs "$EPOCHS"
haloformer evaluate runs/model_iii --data test.h5
