# syntax=docker/dockerfile:1
# The worker's image. docs/image.md has its arguments, its sizes and how to extend it.
#
#   docker build -t pennyreel-worker .
#
# `base` is system and worker environment, `comfyui` adds torch, ComfyUI and the node packs by the
# project's own installer, `models` downloads beside them, and the last stage puts our code on top:
# the largest layers change least.

# torch's wheels bring their own CUDA libraries, so the smallest CUDA image will do: it adds the
# libraries that let a newer CUDA run on an older driver, and tells the container runtime that it
# wants a GPU.
ARG BASE_IMAGE=nvidia/cuda:13.0.3-base-ubuntu24.04@sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1

FROM ${BASE_IMAGE} AS base
# tini cannot be read, only run, so that the kernel hides its environment, with the worker's secrets,
# from the user that runs it and the nodes.
# Versions come from the pinned base image's own release: a version pinned here would be gone from
# the archive with its next security update.
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates python3 python3-venv tini \
    && rm -rf /var/log/apt /var/log/dpkg.log /var/cache/ldconfig/aux-cache \
    && chmod 0711 /usr/bin/tini \
    && useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin pennyreel
ENV PATH=/opt/pennyreel/venv/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PENNYREEL_COMFYUI_ROOT=/comfyui
COPY worker/image/requirements.txt /opt/pennyreel/requirements.txt
# The secret `pip` is a pip.conf, for an index of your own. It is in no layer, and neither is pip's
# cache, a mount.
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/var/cache/pip,sharing=locked \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/pennyreel/venv \
    && PIP_CACHE_DIR=/var/cache/pip pip install --disable-pip-version-check --prefer-binary \
        --no-deps --requirement /opt/pennyreel/requirements.txt \
    && pip check \
    && python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > /tmp/site \
    && echo /opt/pennyreel/src > "$(cat /tmp/site)/pennyreel.pth" \
    && rm /tmp/site
# The installer and what it imports, and nothing else of ours: what it makes takes minutes.
COPY worker/pennyreel_contract /opt/pennyreel/src/pennyreel_contract
COPY worker/pennyreel_comfy/__init__.py /opt/pennyreel/src/pennyreel_comfy/__init__.py
COPY worker/pennyreel_comfy/install /opt/pennyreel/src/pennyreel_comfy/install

FROM base AS comfyui
# cuda or cpu.
ARG TORCH=cuda
# release (GitHub) or horde (the same tree, from a wheel on PyPI).
ARG COMFYUI_SOURCE=release
RUN --mount=type=cache,target=/var/cache/pip,sharing=locked \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    PIP_CACHE_DIR=/var/cache/pip python -m pennyreel_comfy.install /comfyui \
        --source "${COMFYUI_SOURCE}" --device "${TORCH}" --until torch \
    && rm -rf /comfyui/logs /tmp/*
# It makes a picture, so that what ComfyUI imports is compiled: the worker's user cannot write here,
# and would compile it at each cold start.
RUN --mount=type=cache,target=/var/cache/pip,sharing=locked \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    PIP_CACHE_DIR=/var/cache/pip python -m pennyreel_comfy.install /comfyui \
        --source "${COMFYUI_SOURCE}" --device "${TORCH}" \
    && rm -rf /comfyui/logs /tmp/*
# default (those of lock.toml) or none. Either way every node is imported, or the build fails.
ARG NODES=default
RUN --mount=type=cache,target=/var/cache/pip,sharing=locked \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    PIP_CACHE_DIR=/var/cache/pip python -m pennyreel_comfy.install.nodes /comfyui --packs "${NODES}" \
    && rm -rf /comfyui/logs /tmp/*

FROM base AS models
COPY worker/pennyreel_comfy /opt/pennyreel/src/pennyreel_comfy
COPY workflows /opt/pennyreel/src/pennyreel_comfy/workflows
# none, animatediff, sdxl or all. The secrets are for models behind a licence.
ARG MODELS=none
RUN --mount=type=cache,target=/var/cache/models,sharing=locked \
    --mount=type=secret,id=hf_token \
    --mount=type=secret,id=civitai_token \
    mkdir /models \
    && for host in hf civitai; do \
        if [ -f "/run/secrets/${host}_token" ]; then \
            set -- "$@" "--${host}-token-file" "/run/secrets/${host}_token"; \
        fi; \
    done \
    && if [ "${MODELS}" != none ]; then \
        python -m pennyreel_comfy.models pull "${MODELS}" --root /var/cache/models \
            --copy-to /models "$@"; \
    fi

FROM comfyui
COPY --chown=10001:10001 --from=models /models /comfyui/comfy/models
COPY LICENSE /opt/pennyreel/LICENSE
COPY worker/image/bin /usr/local/bin
COPY worker/image/healthcheck.py /opt/pennyreel/healthcheck.py
COPY worker/pennyreel_comfy /opt/pennyreel/src/pennyreel_comfy
COPY worker/pennyreel_worker /opt/pennyreel/src/pennyreel_worker
COPY workflows /opt/pennyreel/src/pennyreel_comfy/workflows
# Jobs may bring models and leave files; code is root's, so that no job can change it.
RUN find /comfyui/comfy/models -type d -exec chown pennyreel: {} + \
    && chown pennyreel: /comfyui/comfy/input /comfyui/comfy/output /comfyui/comfy/user \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/pennyreel/src \
    && python -c "import pennyreel_worker.lifecycle, pennyreel_worker.handler, runpod, boto3" \
    && rm -rf /tmp/*
ARG VERSION=dev
LABEL org.opencontainers.image.title="pennyreel worker" \
      org.opencontainers.image.description="A RunPod serverless worker for ComfyUI" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
USER 10001:10001
WORKDIR /home/pennyreel
HEALTHCHECK --interval=30s --timeout=15s --start-period=300s --retries=3 \
    CMD ["/usr/bin/python3", "-I", "-S", "/opt/pennyreel/healthcheck.py"]
# tini hands on SIGTERM and reaps what the node packs leave behind; -s also where it is not PID 1.
ENTRYPOINT ["/usr/bin/tini", "-s", "--"]
CMD ["python", "-m", "pennyreel_worker"]
