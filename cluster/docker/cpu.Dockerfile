# The image of smoke runs without a GPU, for head and workers alike. docs/images.md says how it is built.
# The base is named by digest: debian:bookworm-20261005-slim. A mirror of yours goes into BASE_IMAGE.
ARG BASE_IMAGE=docker.io/library/debian
ARG BASE_DIGEST=sha256:7c7b2c966bc9ee8cedfeef67e0e279108992c77681fa595db4a9d65c06ccc587

FROM ${BASE_IMAGE}@${BASE_DIGEST} AS system
# g++ and Python's headers: vLLM and DeepSpeed compile small programs when they start.
# wget: KubeRay's health probes call it. Debian's stable release takes fixes alone, so versions are not named here.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates g++ libnuma1 python3.11 python3.11-dev wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group --create-home --shell /bin/bash ray

FROM system AS packages
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3.11-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3.11 -m venv /opt/wrpo
ENV PATH=/opt/wrpo/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/image-cpu.txt requirements/image-source.txt requirements/torch-cpu.txt requirements/
# Wheels alone, each by its hash, so nothing of theirs runs while it is installed; then DeepSpeed, without its ops.
# The secret is a pip.conf of yours (a mirror, credentials), if you give one; it does not get into the image.
# A layer each: a build that breaks off goes on where it was.
# hadolint ignore=DL3059
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-deps --require-hashes --only-binary :all: -r requirements/torch-cpu.txt
# hadolint ignore=DL3059
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-deps --require-hashes --only-binary :all: -r requirements/image-cpu.txt
# hadolint ignore=DL3059
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    DS_BUILD_OPS=0 pip install --no-deps --require-hashes --no-build-isolation --no-binary deepspeed \
        -r requirements/image-source.txt
COPY pyproject.toml README.md ./
COPY wrpo_ray wrpo_ray
RUN pip install --no-deps --no-index --no-build-isolation .

FROM system
COPY --from=packages /opt/wrpo /opt/wrpo
WORKDIR /opt/wrpo_ray
COPY jobs jobs
ENV PATH=/opt/wrpo/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    # Nothing calls home.
    RAY_USAGE_STATS_ENABLED=0 \
    VLLM_NO_USAGE_STATS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=1
# A number, so that `runAsNonRoot` of Kubernetes can check it.
USER 1000:1000
CMD ["wrpo-ray", "doctor"]
