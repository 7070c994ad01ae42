# The exporter with everything that decides a byte of an artifact pinned: base image by digest, packages by constraints.txt.
#
#   docker build --build-arg PIP_EXTRA_INDEX_URL=<PyTorch's index of builds without CUDA> --tag exporter .
#   docker run --rm --volume "$PWD:/data" exporter export model --target gguf --quant int4 --out build
#
# Without the argument torch brings CUDA's libraries: gigabytes more, the same artifacts.
FROM python:3.12.12-slim-bookworm@sha256:593bd06efe90efa80dc4eee3948be7c0fde4134606dd40d8dd8dbcade98e669c

# llama.cpp runs its threads with OpenMP.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
ARG PIP_EXTRA_INDEX_URL

WORKDIR /opt/exporter
COPY constraints.txt ./
RUN pip install -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY exporter ./exporter
RUN pip install -c constraints.txt '.[gguf,onnx,executorch,hub]' && exporter targets

# Compiled kernels and calibrations in progress go below XDG_CACHE_HOME, which any user may write to.
ENV HOME=/tmp XDG_CACHE_HOME=/tmp/cache
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["exporter"]
CMD ["--help"]
