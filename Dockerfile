# One image for gateway, worker and operator: `uplift-gateway`, `uplift-worker`, `uplift`. Modules that the worker deploys as
# processes run in its container: build an image `FROM uplift:…` that has their programs (docs/how-to/run-in-production.md).
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/uplift && python -m venv /opt/build
COPY requirements.lock requirements-dev.lock ./
RUN /opt/uplift/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock
# The build's own tools, hashed too; they stay in this stage.
RUN /opt/build/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements-dev.lock
COPY pyproject.toml README.md LICENSE ./
COPY activities activities/
COPY deployers deployers/
COPY examples examples/
COPY gateway gateway/
COPY gateway_client gateway_client/
COPY gateway_wire gateway_wire/
COPY module_data module_data/
COPY uplift_cli uplift_cli/
COPY uplift_settings uplift_settings/
COPY upgrade_core upgrade_core/
COPY worker worker/
COPY workflows workflows/
RUN /opt/build/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
    && /opt/uplift/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl

FROM python:3.13-slim
# A named volume that is mounted on the home folder takes over who owns it.
RUN useradd --system --uid 10001 --home-dir /var/lib/uplift --create-home uplift
COPY --from=build /opt/uplift /opt/uplift
ENV PATH=/opt/uplift/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    UPLIFT_HOME=/var/lib/uplift
USER uplift
WORKDIR /var/lib/uplift
EXPOSE 9130
CMD ["uplift-gateway"]
