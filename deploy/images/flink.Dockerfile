# Flink with Beam's classes in its lib, so that workers outlive a stage (docs/runners.md), and Beam's job server. Build
# from the repository's root, with the image of app.Dockerfile:
#
#   docker build -f deploy/images/flink.Dockerfile --build-arg APP=REGISTRY/pinnerformer:1 -t REGISTRY/pinnerformer-flink:1 .
ARG APP
ARG FLINK=flink:1.20.5-java17

FROM ${FLINK} AS flink

FROM ${APP} AS build
USER 0
RUN apt-get update && apt-get install -y --no-install-recommends maven
COPY --from=flink /opt/flink /opt/flink
WORKDIR /source
COPY . .
RUN PYTHON=/opt/pinnerformer/bin/python deploy/images/install.sh flink /opt/beam /opt/flink

FROM ${FLINK}
COPY --from=build /opt/beam/lib/ /opt/flink/lib/
COPY --from=build /opt/beam/job-server.jar /opt/beam/job-server.jar
USER flink
