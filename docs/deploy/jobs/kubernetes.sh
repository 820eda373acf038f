#!/bin/sh
# Runs one job directory as a Kubernetes Job and returns when it has ended. In DATA/settings.toml:
#   [jobs]
#   command = ["/path/to/kubernetes.sh", "run", "{job_dir}", "{job_name}"]
#   cancel = ["/path/to/kubernetes.sh", "cancel", "{job_dir}", "{job_name}"]
# The volume claim "nashloop-data" must be mounted at the same path as here, so that both sides see the job.
set -eu
name="nashloop-$3"
if [ "$1" = cancel ]; then
    exec kubectl delete job "$name" --ignore-not-found --wait=false
fi
sed -e "s|JOB_NAME|$name|g" -e "s|JOB_DIR|$2|g" "$(dirname "$0")/kubernetes-job.yaml" |
    kubectl "${NASHLOOP_KUBECTL_VERB:-create}" ${NASHLOOP_KUBECTL_FLAGS:-} -f -
[ -n "${NASHLOOP_KUBECTL_FLAGS:-}" ] && exit 0 # a dry run
until kubectl get job "$name" -o 'jsonpath={.status.conditions[*].type}' | grep -Eq 'Complete|Failed'; do sleep 5; done
kubectl logs "job/$name" --tail=-1 || true
kubectl get job "$name" -o 'jsonpath={.status.conditions[*].type}' | grep -q Complete
