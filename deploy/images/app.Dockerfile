# Launcher, workers and operator's commands: one image for all of them. Build from the repository's root:
#
#   docker build -f deploy/images/app.Dockerfile --build-arg TORCH_INDEX=URL -t REGISTRY/pinnerformer:1 .
#   docker build -f deploy/images/app.Dockerfile --build-arg DEVICE=cuda -t REGISTRY/pinnerformer:1-cuda .
#
# DEVICE=cuda: CUDA's libraries come with torch; the driver is the host's, by NVIDIA's container toolkit.
# For a build that is the same next year, give BASE with the digest that your registry says: python:...@sha256:...
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS build
ARG DEVICE=cpu
ARG TORCH_INDEX=
ARG HNSWLIB_MARCH=x86-64-v3
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
ENV UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1
# The lock first: a change of the code does not install torch again.
COPY Makefile ./
COPY deploy/images deploy/images
RUN deploy/images/install.sh libraries /opt/pinnerformer "$DEVICE"
COPY . .
RUN deploy/images/install.sh app /opt/pinnerformer

# No compiler, no pip, no cache, no source: the environment alone goes on.
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 libstdc++6 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --home-dir /tmp pinnerformer
COPY --from=build /opt/pinnerformer /opt/pinnerformer
ENV PATH=/opt/pinnerformer/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
ENTRYPOINT []
CMD ["pinnerformer", "--help"]
