#!/bin/sh
# What the image holds, installed into a virtual environment; also runs outside of a container:
#   PREFIX=/some/empty/folder EXTRAS=app,explain sh docker/install.sh cpu
# cpu: PyTorch without CUDA, a tenth of the size; cuda: PyTorch's usual build, which brings its own CUDA libraries.
set -eu
VARIANT=${1:?cpu or cuda}
PREFIX=${PREFIX:-/opt/haloformer}
EXTRAS=${EXTRAS:-app,explain}
cd "$(dirname "$0")/.."

python3 -m venv "$PREFIX"
pip() { "$PREFIX/bin/python" -m pip --disable-pip-version-check --no-cache-dir "$@"; }
case $VARIANT in
  cpu) pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch torchvision ;;
  cuda) pip install -c constraints.txt torch torchvision ;;
  *) echo "install.sh: '$VARIANT' is neither cpu nor cuda" >&2; exit 2 ;;
esac
pip install -c constraints.txt ".[$EXTRAS]"
"$PREFIX/bin/haloformer" --version
