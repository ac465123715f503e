#!/bin/bash
# Builds the flex template, or runs a night from it. Needs gcloud; nothing here holds a secret.
#
#   PROJECT=p REGION=europe-west4 BUCKET=b IMAGE=europe-west4-docker.pkg.dev/p/r/pinnerformer:1 deploy/dataflow/launch.sh build
#   ... deploy/dataflow/launch.sh run root=gs://b/root,logs=gs://b/logs,pins=gs://b/pins,model=gs://b/model,date=2026-11-24,publish=none
#
# `run` returns once the job is submitted; its outcome is told by
#   pinnerformer release --root gs://b/root --run RUN --kv ...       (0 done, 1 failed or still running, 3 refused)
# MACHINE, THREADS, WORKERS and DISK (GB): as `pinnerformer plan --sizes dataflow` says them, see deploy/dataflow/README.md.
# SERVICE_ACCOUNT: the workers' (default: the project's).
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${PROJECT:?}" "${REGION:?}" "${BUCKET:?}" "${IMAGE:?}"
TEMPLATE="gs://$BUCKET/templates/pinnerformer-daily.json"
case "${1:-}" in
  build)
    gcloud dataflow flex-template build "$TEMPLATE" --project "$PROJECT" --image "$IMAGE" --sdk-language PYTHON \
      --metadata-file deploy/dataflow/metadata.json
    ;;
  run)
    gcloud dataflow flex-template run "pinnerformer-$(date -u +%Y%m%d-%H%M%S)" --project "$PROJECT" --region "$REGION" \
      --template-file-gcs-location "$TEMPLATE" --parameters \
      "sdk_container_image=$IMAGE,number_of_worker_harness_threads=${THREADS:-8},disk_size_gb=${DISK:-100},${2:?root=...}" \
      --worker-machine-type "${MACHINE:-n2-highmem-8}" --max-workers "${WORKERS:-100}" \
      --staging-location "gs://$BUCKET/staging" --temp-location "gs://$BUCKET/temp" \
      ${SERVICE_ACCOUNT:+--service-account-email "$SERVICE_ACCOUNT"} \
      --additional-experiments use_runner_v2 --disable-public-ips
    ;;
  *)
    sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2
    ;;
esac
