# docker build --target cpu -t haloformer:cpu .       docker build --target cuda -t haloformer:cuda .
# All shell work is in docker/install.sh, which also runs without Docker.
FROM python:3.12.11-slim-bookworm AS base
ENV PATH=/opt/haloformer/bin:$PATH PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib
# Below it is called by number: a host that refuses root cannot look names up.
RUN useradd --create-home --uid 1000 lens

FROM base AS build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY docker/install.sh docker/install.sh

FROM build AS build-cpu
RUN sh docker/install.sh cpu

FROM build AS build-cuda
RUN sh docker/install.sh cuda

FROM base AS cuda
COPY --from=build-cuda /opt/haloformer /opt/haloformer
USER 1000
WORKDIR /home/lens
ENTRYPOINT ["haloformer"]
CMD ["--help"]

FROM base AS cpu
COPY --from=build-cpu /opt/haloformer /opt/haloformer
USER 1000
WORKDIR /home/lens
ENTRYPOINT ["haloformer"]
CMD ["--help"]
