# Images of esm-onnx, one for each stage at the end:
#
#   profile   measures with ONNX Runtime on a CPU (amd64, arm64); without torch
#   full      fits predictors, searches and draws too
#   trt       measures on NVIDIA GPUs through TensorRT (amd64)
#
#   docker build --target profile --tag esm-onnx:profile .
#   docker run --rm --network none --volume "$PWD:/data" esm-onnx:profile profile --space mobilenetv3 …
#
# /data is where the store lies, and the weights that subnets share. Nothing runs as root.

ARG PYTHON=python:3.11-slim-bookworm
# NVIDIA's, by the full name that it has in NVIDIA's registry: --build-arg TENSORRT=…/nvidia/tensorrt:25.12-py3
ARG TENSORRT=tensorrt:25.12-py3

# Wheels to look into before any index: none. `--build-context wheels=FOLDER` puts a folder in its place.
FROM scratch AS wheels

FROM ${PYTHON} AS source
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY tools/constraints.txt tools/
COPY esm_onnx esm_onnx
COPY runtimes runtimes

# Pip's own settings: arguments, so that no image keeps them.
FROM source AS install-profile
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_INDEX
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m venv --without-pip /opt/esm-onnx \
    && python3 -m pip --python /opt/esm-onnx/bin/python install --no-cache-dir --find-links /wheels \
        --constraint tools/constraints.txt .

# PyPI's torch for amd64 may bring gigabytes of CUDA: PyTorch's index of CPU wheels as PIP_EXTRA_INDEX_URL keeps them out.
FROM install-profile AS install-full
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_INDEX
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m pip --python /opt/esm-onnx/bin/python install --no-cache-dir --find-links /wheels \
        --constraint tools/constraints.txt '.[train,search,import,report]'

# What the images with Python alone share. Whoever `--user` names may write to /data.
FROM ${PYTHON} AS ready
RUN mkdir -p /data && chmod 1777 /data
ENV PATH=/opt/esm-onnx/bin:$PATH XDG_CACHE_HOME=/data/.cache
WORKDIR /data
VOLUME /data
USER 1000:1000
ENTRYPOINT ["esm-onnx"]
CMD ["--help"]

# NVIDIA's TensorRT is kept where it is new enough, else pip brings one.
FROM ${TENSORRT} AS trt
WORKDIR /source
COPY --from=source /source .
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_INDEX
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m venv --without-pip --system-site-packages /opt/esm-onnx \
    && python3 -m pip --python /opt/esm-onnx/bin/python install --no-cache-dir --find-links /wheels \
        --constraint tools/constraints.txt '.[trt]' \
    && mkdir -p /data && chmod 1777 /data
ENV PATH=/opt/esm-onnx/bin:$PATH XDG_CACHE_HOME=/data/.cache
WORKDIR /data
VOLUME /data
USER 1000:1000
ENTRYPOINT ["esm-onnx"]
CMD ["--help"]

FROM ready AS full
COPY --from=install-full /opt/esm-onnx /opt/esm-onnx

# The last one: what is built where no stage is named.
FROM ready AS profile
COPY --from=install-profile /opt/esm-onnx /opt/esm-onnx
