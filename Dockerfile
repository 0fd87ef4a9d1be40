# Kinitro's services in one small image: api, scheduler, validate, and an executor of Docker mode (docs/guide.md).
#   docker build -t kinitro/services:v1 .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
COPY deploy/requirements.txt deploy/build-requirements.txt /build/
# Exactly what is locked, hash by hash; nothing is resolved or compiled here.
RUN python3 -m venv /opt/kinitro && python3 -m venv /opt/builder \
    && /opt/kinitro/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes \
        -r /build/requirements.txt \
    && /opt/builder/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes \
        -r /build/build-requirements.txt
COPY pyproject.toml README.md LICENSE /build/source/
COPY src /build/source/src
RUN cd /build/source && /opt/builder/bin/python -m hatchling build -t wheel -d /build/wheel \
    && /opt/kinitro/bin/pip install --no-cache-dir --no-deps --no-index /build/wheel/*.whl \
    && /opt/kinitro/bin/pip uninstall --yes pip \
    && find /opt/kinitro -name __pycache__ -prune -exec rm -rf {} +

FROM ${BASE_IMAGE}
RUN useradd --uid 10003 --user-group --no-create-home --home-dir /data kinitro \
    && install -d -o kinitro -g kinitro -m 700 /data /keys && install -d -m 1777 /records
COPY --from=build /opt/kinitro /opt/kinitro
ENV PATH=/opt/kinitro/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 KINITRO_HOME=/data HOME=/data
WORKDIR /data
USER 10003:10003
ENTRYPOINT ["kinitro"]
CMD ["--help"]
ARG KINITRO_REVISION=unknown
LABEL org.opencontainers.image.title="kinitro services" org.opencontainers.image.revision="${KINITRO_REVISION}"
