# One image for all roles of Fleetwatch: docs/docker.md. The rule: what builds it stays behind in the first stage.

FROM python:3.11-slim-bookworm AS build

# Instead of PyPI: an index of yours, and in requirements/ca.pem (optional, never committed) the authorities to trust.
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Dependencies first: they change seldom. Wheels only, so that nothing is compiled here.
COPY requirements/runtime.lock requirements/build.txt requirements/ca.pe[m] requirements/
RUN set -eu; \
    if [ -f requirements/ca.pem ]; then export PIP_CERT=/build/requirements/ca.pem; fi; \
    for each in runtime.lock:/opt/fleetwatch build.txt:/opt/build; do \
      python3 -m venv --without-pip "${each#*:}"; \
      python3 -m pip --python "${each#*:}/bin/python" install --quiet --no-compile --only-binary :all: \
        --require-hashes -r "requirements/${each%%:*}"; \
    done

COPY pyproject.toml README.md LICENSE ./
COPY autoscaler autoscaler
COPY detectors detectors
COPY fleetwatch fleetwatch
COPY producers producers
COPY streams streams
COPY telemetry telemetry
# Byte code that is not checked against its source's time: nothing can write a new one, and layers round times.
RUN set -eu; \
    /opt/build/bin/hatchling build -t wheel -d dist; \
    python3 -m pip --python /opt/fleetwatch/bin/python install --quiet --no-compile --no-deps --no-index dist/*.whl; \
    cd /opt/fleetwatch; \
    find lib -depth -type d -name tests -exec rm -r {} +; \
    rm -rf lib/python3.11/site-packages/pyarrow/include; \
    bin/python -m compileall -q --invalidation-mode unchecked-hash lib

# Kernels, for any CPU of the last ten years: a cache that is made for the builder's own would be of no use elsewhere.
COPY compose/image/fleetwatch /opt/fleetwatch/image/fleetwatch
RUN set -eu; \
    cd /opt/fleetwatch; \
    case "$(uname -m)" in x86_64) cpu=x86-64-v3 ;; *) cpu=generic ;; esac; \
    echo "$cpu" > image/cpu; \
    NUMBA_CPU_NAME="$cpu" NUMBA_CPU_FEATURES= FLEETWATCH_CACHE_DIR=/opt/fleetwatch/image \
      bin/fleetwatch worker --compile-only; \
    chmod 755 image/fleetwatch; chmod -R a+rX image

FROM python:3.11-slim-bookworm

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="fleetwatch" \
      org.opencontainers.image.description="Streaming telemetry ingestion and anomaly detection for fleets, on Kafka and Faust" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"

RUN echo 'fleetwatch:x:10001:10001:fleetwatch:/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'fleetwatch:x:10001:' >> /etc/group
COPY --from=build /opt/fleetwatch /opt/fleetwatch
# image/ first: its `fleetwatch` puts the kernels where they can be used and becomes the one of bin/
ENV PATH=/opt/fleetwatch/image:/opt/fleetwatch/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 10001:10001

EXPOSE 6066
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=4 CMD ["fleetwatch", "health"]
ENTRYPOINT ["fleetwatch"]
CMD ["--help"]
